"""Schemathesis on the gateway's own document, with answers of the real model.

tests/mesh/api/test_api_schema.py sends far more to a generator of known text; here the requests
go the whole way to the hosters, so lengths are small.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

EXAMPLES = 6
ANSWER_TOKENS = 4
LENGTHS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
    "/inference": "max_tokens",
    "/input": "max_new_tokens",
}
schema = schemathesis.openapi.from_url(f"{os.environ['MESH_URL']}/openapi.json")
OPERATIONS = [
    (method.upper(), path)
    for path, methods in schema.raw_schema["paths"].items()
    for method in methods
]


def make_check(method, path, mode, **validation):
    @hypothesis.seed(5)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            shorten(path, case.body)
        case.call_and_validate(timeout=600, **validation)

    return check


def shorten(path, body):
    """Ask the served model for a short answer, and for one."""
    if "model" in body:
        body["model"] = os.environ["MESH_MODEL"]
    if path in LENGTHS:
        body[LENGTHS[path]] = ANSWER_TOKENS
    if path in ("/api/chat", "/api/generate"):
        body["options"] = {"num_predict": ANSWER_TOKENS}
    for name in ("n", "num_return_sequences", "min_tokens", "max_length"):
        body.pop(name, None)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: value.strip("/"))
def test_what_is_documented_is_answered(method, path):
    # A valid body may ask for what this model or its context has not: that is refused.
    excluded = [positive_data_acceptance]
    make_check(method, path, GenerationMode.POSITIVE, excluded_checks=excluded)()


@pytest.mark.parametrize("path", [path for method, path in OPERATIONS if method == "POST"])
def test_what_the_document_forbids_is_refused(path):
    make_check("POST", path, GenerationMode.NEGATIVE)()
