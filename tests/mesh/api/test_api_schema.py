"""Schemathesis against the OpenAPI document: what is documented is what is answered."""

from __future__ import annotations

import asyncio
import json
import threading

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mesh.api.checks import ShownMetrics
from mesh.api.server import ServeConfig, open_gateway
from tests.support.gateways import QUICK
from tests.support.local_backend import MODEL, LocalBackend

EXAMPLES = 20
OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/{response_id}"),
    ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/input"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/api/chat"),
    ("POST", "/api/generate"),
    ("POST", "/api/show"),
    ("GET", "/api/tags"),
    ("GET", "/api/version"),
    ("POST", "/v1/embeddings"),
    ("POST", "/api/embed"),
    ("POST", "/inference"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]


class _ServerThread:
    """Schemathesis speaks synchronously, so its gateway runs in a thread with its own loop."""

    def __init__(self) -> None:
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _ServerThread:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        config, metrics = ServeConfig(port=0, limits=QUICK), ShownMetrics(lambda: b"mesh_ready 1\n")
        async with open_gateway(config, LocalBackend(), metrics=metrics) as gateway:
            self.url = gateway.url
            self._ready.set()
            await self._stop.wait()


@pytest.fixture(scope="module")
def url():
    with _ServerThread() as server:
        yield server.url


@pytest.fixture(scope="module")
def schema(url):
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def make_check(operation, mode, **validation):
    """Return a test that sends ``EXAMPLES`` requests of the document's making."""

    @hypothesis.seed(3)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = MODEL
        # Some of what the document forbids is too large as well, which 413 says before it is read.
        hypothesis.assume(count_bytes(case.body) <= QUICK.max_body_bytes)
        case.call_and_validate(timeout=10, **validation)

    return check


def count_bytes(body):
    """Return the size of a body in JSON; 0 for one that is none."""
    try:
        return len(json.dumps(body))
    except TypeError:
        return 0


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_documented_is_what_is_answered(schema, method, path):
    # A valid body may still ask for more than the context holds: that is refused.
    make_check(
        schema[path][method],
        GenerationMode.POSITIVE,
        excluded_checks=[positive_data_acceptance],
    )()


@pytest.mark.parametrize(("method", "path"), [o for o in OPERATIONS if o[0] == "POST"])
def test_what_the_document_forbids_is_refused(schema, method, path):
    make_check(schema[path][method], GenerationMode.NEGATIVE)()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
    ],
)
def test_streams_are_documented_event_by_event(schema, path, words):
    case = schema[path]["POST"].Case(
        body={"model": MODEL, "stream": True, "max_tokens": 3, **words},
        media_type="application/json",
    )
    response = case.call_and_validate(timeout=10, excluded_checks=[positive_data_acceptance])
    assert response.status_code == 200


def test_no_operation_is_left_out(schema):
    documented = {
        (method.upper(), path)
        for path, operations in schema.raw_schema["paths"].items()
        for method in operations
    }
    assert documented == set(OPERATIONS)
