"""What a caller can get wrong, or send on purpose: the right status, and nothing leaked."""

from __future__ import annotations

import json

import pytest
import pytest_asyncio

from tests.support.gateways import open_client
from tests.support.http_checks import SECRET, check_error
from tests.support.local_backend import CONTEXT, MODEL, LocalBackend

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": MODEL, "prompt": "hi"}

# One gateway for all of these: what they refuse never reaches its backend.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def shared_backend(tokenizer):
    return LocalBackend(tokenizer=tokenizer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_backend):
    async with open_client(shared_backend) as client:
        yield client


@pytest.fixture
def backend(shared_backend):
    shared_backend.requests.clear()
    return shared_backend


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe\x00",
        b'{"model": "\xc3\x28"}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"temperature": NaN}',
    ],
    ids=lambda content: repr(content[:12]),
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/input"])
async def test_malformed_bodies_are_400(api, path, content):
    response = await api.post(path, content=content, headers={"Content-Type": "application/json"})
    check_error(response, 400)


async def test_a_body_of_another_type_is_415(api):
    response = await api.post("/v1/completions", content=json.dumps(TEXT).encode())
    check_error(response, 415)
    response = await api.post("/v1/completions", data={"model": MODEL})
    check_error(response, 415)


@pytest.mark.parametrize("model", ["", "gpt-4", "../../etc/passwd", "x" * 600, "\ud800", 3, None])
async def test_an_unknown_model_is_refused(api, model):
    content = json.dumps({**CHAT, "model": model}).encode()
    response = await api.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == (404 if model in ("gpt-4", "../../etc/passwd") else 400)
    check_error(response, response.status_code, param="model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hi"),
        ("messages", [{"role": "user", "content": 5}]),
        ("messages", [{"role": "wizard", "content": SECRET}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}]),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 2.5),
        ("max_tokens", "12"),
        ("max_tokens", 10**30),
        ("max_completion_tokens", -5),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("n", 0),
        ("n", 10_000),
        ("n", True),
        ("seed", 2**64),
        ("stream", "yes"),
        ("stop", 7),
        ("stop", ""),
        ("stop", ["a"] * 9),
        ("stop", "s" * 10_000),
        ("stop", ["ok", "s" * 10_000]),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("top_logprobs", 2),
        ("repetition_penalty", 0),
    ],
)
async def test_wrong_values_are_400_and_named(api, backend, field, value):
    response = await api.post("/v1/chat/completions", json={**CHAT, field: value})
    error = check_error(response, 400)
    assert error["param"].startswith(field)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("guided_grammar", "root ::= x"),
        ("modalities", ["text", "audio"]),
        ("store", True),
        ("best_of", 3),
        ("reasoning_effort", "high"),
    ],
)
async def test_a_known_parameter_that_is_not_supported_is_400_naming_it(api, field, value):
    response = await api.post("/v1/chat/completions", json={**CHAT, field: value})
    error = check_error(response, 400, param=field)
    assert error["code"] == "unsupported_parameter"


async def test_neutral_and_unknown_parameters_are_accepted(api):
    extra = {"tools": [], "presence_penalty": 0, "logit_bias": None, "metadata": {}, "wobble": 1}
    response = await api.post("/v1/chat/completions", json={**CHAT, **extra, "user": "me"})
    assert response.status_code == 200


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [1, "a"], [-1], [2**40], [999_999], None])
async def test_an_empty_or_impossible_prompt_is_400(api, prompt):
    response = await api.post("/v1/completions", json={**TEXT, "prompt": prompt})
    error = check_error(response, 400)
    assert error["param"].startswith("prompt")


async def test_an_empty_prompt_of_input_is_400(api):
    check_error(await api.post("/input", json={"prompt": ""}), 400, param="prompt")


@pytest.mark.parametrize("max_tokens", [CONTEXT, 1_000_000])
async def test_an_answer_that_does_not_fit_the_context_is_400(api, max_tokens):
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        response = await api.post(path, json={**body, "max_tokens": max_tokens})
        error = check_error(response, 400, param="max_tokens")
        assert error["code"] == "context_length_exceeded"


async def test_a_prompt_beyond_the_context_is_400_and_not_sent_on(api, backend):
    long = SECRET * CONTEXT
    response = await api.post(
        "/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": long}]}
    )
    error = check_error(response, 400, param="messages")
    assert error["code"] == "context_length_exceeded"
    check_error(await api.post("/v1/completions", json={**TEXT, "prompt": long}), 400)
    assert backend.requests == []


async def test_an_unpaired_surrogate_in_a_prompt_is_400(api):
    response = await api.post(
        "/v1/completions",
        content=json.dumps({**TEXT, "prompt": "\ud83d"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    check_error(response, 400)


async def test_unknown_addresses_and_methods_have_the_same_shape(api):
    check_error(await api.get("/v1/nothing"), 404)
    check_error(await api.get("/static/../app.py"), 404)
    check_error(await api.get("/static/%2e%2e%2fapp.py"), 404)
    check_error(await api.get("/docs"), 404)
    response = await api.get("/v1/chat/completions")
    check_error(response, 405)
    assert response.headers["allow"] == "POST"
    check_error(await api.delete("/v1/models"), 405)
