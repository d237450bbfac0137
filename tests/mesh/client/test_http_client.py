"""HttpMeshClient against a real gateway, and against servers that are none."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.server import ServeConfig, open_gateway
from mesh.client.event_stream import EventReader, EventTooLong
from mesh.client.http import (
    GatewayMisbehaved,
    GatewayRefused,
    GatewayUnreachable,
    HttpMeshClient,
    HttpTimeouts,
)
from mesh.errors import InvalidRequest
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.sampling import Sampling
from tests.support.gateways import QUICK
from tests.support.local_backend import ANSWER, CONTEXT, MODEL, ROUTE, LocalBackend

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def open_client():
    """Return a function that starts a gateway and opens a client of it."""
    async with AsyncExitStack() as stack:

        async def open_it(backend, *, serve=None, **options) -> HttpMeshClient:
            config = ServeConfig(port=0, limits=QUICK, **(serve or {}))
            gateway = await stack.enter_async_context(open_gateway(config, backend))
            return await stack.enter_async_context(HttpMeshClient(gateway.url, **options))

        yield open_it


async def collect(client, prompt, **options):
    async with aclosing(client.generate(prompt, **options)) as pieces:
        return [piece async for piece in pieces]


@pytest.mark.parametrize("prompt", ["Hello", [65, 66, 67], CHAT], ids=["text", "ids", "chat"])
async def test_every_kind_of_prompt_is_answered(open_client, prompt):
    client = await open_client(LocalBackend())
    pieces = await collect(client, prompt, max_new_tokens=200)
    assert "".join(piece.text for piece in pieces) == ANSWER
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "stop"
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    trace = pieces[0].trace
    assert [(hop.peer_id, hop.start, hop.end) for hop in trace.route] == [
        (hop.peer_id, hop.start, hop.end) for hop in ROUTE
    ]
    assert trace.time_to_first_token_s is not None


@pytest.mark.parametrize("prompt", ["Hello", CHAT], ids=["text", "chat"])
async def test_sampling_travels_whole(open_client, prompt):
    backend = LocalBackend()
    client = await open_client(backend)
    sampling = Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        repetition_penalty=1.25,
        seed=2**64 - 3,
        top_logprobs=2,
    )
    pieces = await collect(client, prompt, max_new_tokens=3, sampling=sampling)
    asked = backend.requests[0]
    assert asked.max_new_tokens == 3
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed"):
        assert getattr(asked.sampling, name) == getattr(sampling, name)
    assert all(piece.logprob is not None for piece in pieces[:3])
    assert all(len(piece.top_logprobs) >= 2 for piece in pieces[:3])
    assert pieces[-1].finish_reason == "length"


async def test_stop_texts_end_the_answer(open_client):
    client = await open_client(LocalBackend())
    stop = ANSWER[8:12]
    pieces = await collect(client, CHAT, max_new_tokens=200, stop=[stop])
    assert "".join(piece.text for piece in pieces) == ANSWER[: ANSWER.index(stop)]
    assert pieces[-1].finish_reason == "stop"


async def test_re_route_shows_in_the_trace(open_client):
    client = await open_client(LocalBackend(reroute_after=3))
    pieces = await collect(client, CHAT, max_new_tokens=200)
    assert "".join(piece.text for piece in pieces) == ANSWER
    assert pieces[-1].trace.reroutes == 1


async def test_reader_that_leaves_ends_the_answer_at_the_gateway(open_client):
    backend = LocalBackend(is_endless=True, delay_s=0.001)
    client = await open_client(backend)
    async with aclosing(client.generate(CHAT, max_new_tokens=CONTEXT // 2)) as pieces:
        async for _ in pieces:
            break
    async with asyncio.timeout(5):
        while backend.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_models_are_listed_and_the_first_is_the_default(open_client):
    backend = LocalBackend()
    client = await open_client(backend)
    assert await client.list_models() == (MODEL,)
    await collect(client, "Hello", max_new_tokens=1)
    assert backend.requests[0].model_id == MODEL


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10_000}, "max_completion_tokens"),
        ({"max_new_tokens": 5, "sampling": Sampling(temperature=-1.0)}, "temperature"),
        ({"max_new_tokens": 5, "sampling": Sampling(stop_token_ids=(2,))}, "stop_token_ids"),
        ({"max_new_tokens": 5, "prompt": []}, "prompt"),
        ({"max_new_tokens": 5, "prompt": [1, {"role": "user"}]}, "prompt"),
        ({"max_new_tokens": 5, "prompt": [{"role": "oracle", "content": ""}]}, "messages[0].role"),
    ],
)
async def test_impossible_requests_name_the_field(open_client, options, field):
    client = await open_client(LocalBackend())
    with pytest.raises(InvalidRequest) as refused:
        await collect(client, options.pop("prompt", CHAT), **options)
    assert refused.value.field == field


async def test_uncovered_layers_wrong_model_and_wrong_key_are_told_apart(open_client):
    client = await open_client(LocalBackend(uncovered=((2, 4),)), model=MODEL)
    with pytest.raises(GatewayRefused, match="2:4") as refused:
        await collect(client, CHAT, max_new_tokens=5)
    assert (refused.value.status, refused.value.code) == (503, "no_route")
    assert refused.value.retry_after_s == 15
    client = await open_client(LocalBackend(), model="other")
    with pytest.raises(GatewayRefused) as refused:
        await collect(client, CHAT, max_new_tokens=5)
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


async def test_failure_in_the_middle_is_a_refusal_after_the_text(open_client):
    failure = RuntimeError("a defect")
    client = await open_client(LocalBackend(failure=failure, fail_after=3))
    texts = []
    with pytest.raises(GatewayRefused) as refused:
        async with aclosing(client.generate(CHAT, max_new_tokens=50)) as pieces:
            async for piece in pieces:
                texts.append(piece.text)
    assert refused.value.status is None
    assert ANSWER.startswith("".join(texts))


def client_of(reply) -> HttpMeshClient:
    """A client of a server that answers everything with ``reply``."""
    transport = httpx.MockTransport(lambda request: reply)
    return HttpMeshClient("http://gateway", model="m", transport=transport)


@pytest.mark.parametrize(
    "content",
    [
        b"data: nonsense\n\n",
        b"data: []\n\n",
        b"data: {}\n\n",
        b'data: {"choices": 5}\n\n',
        b'data: {"choices": [{"delta": 5}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": []}}]}\n\n',
        b'data: {"choices": [], "mesh": {"route": [{}]}}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: " + b"x" * (2 << 20),
    ],
)
async def test_server_that_is_no_gateway_is_named_so(content):
    async with client_of(httpx.Response(200, content=content)) as client:
        with pytest.raises(GatewayMisbehaved):
            await collect(client, CHAT, max_new_tokens=5)


async def test_stream_without_its_end_is_no_answer():
    event = json.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": None}]})
    async with client_of(httpx.Response(200, content=f"data: {event}\n\n")) as client:
        with pytest.raises(GatewayUnreachable):
            await collect(client, CHAT, max_new_tokens=5)


@pytest.mark.parametrize("body", [b"<html>502</html>", b'{"error": 5}', b"\xff\xfe", b""])
async def test_foreign_error_pages_keep_their_status(body):
    async with client_of(httpx.Response(502, content=body)) as client:
        with pytest.raises(GatewayRefused) as refused:
            await collect(client, CHAT, max_new_tokens=5)
        assert refused.value.status == 502
    async with client_of(httpx.Response(502, content=b"x" * (2 << 20))) as client:
        with pytest.raises(GatewayMisbehaved):
            await collect(client, CHAT, max_new_tokens=5)


async def test_nobody_there_and_silence_are_named():
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpMeshClient(f"http://127.0.0.1:{port}", timeouts=HttpTimeouts(silence_s=0.1))
    async with server, client:
        with pytest.raises(GatewayUnreachable):
            await client.list_models()
    async with HttpMeshClient(f"http://127.0.0.1:{port}", api_key="secret") as client:
        with pytest.raises(GatewayUnreachable) as failed:
            await client.list_models()
        assert "secret" not in str(failed.value)
        assert "secret" not in repr(client)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), max_size=5),
    st.data(),
)
def test_events_survive_any_cutting(texts, data):
    raw = b""
    for text in texts:
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        raw += f": comment{end}id: 7{end}data: {text}{end}{end}".encode()
    reader, events, place = EventReader(), [], 0
    while place < len(raw):
        size = data.draw(st.integers(1, len(raw)))
        events += reader.feed(raw[place : place + size])
        place += size
    assert events == texts


def test_event_of_many_lines_has_a_limit():
    reader = EventReader()
    with pytest.raises(EventTooLong):
        for _ in range(2000):
            reader.feed(b"data: " + b"x" * 1000 + b"\n")


async def test_what_changes_logits_reaches_the_gateway_or_is_refused_by_name(open_client):
    backend = LocalBackend()
    client = await open_client(backend)
    grammar = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "integer"}')
    asked = Sampling(
        frequency_penalty=0.5, presence_penalty=-1.0, min_p=0.1, logit_bias=((7, -100.0),)
    )
    await collect(client, "hi", max_new_tokens=5, sampling=asked)
    shaped = replace(asked, grammar=grammar)
    await collect(client, "hi", max_new_tokens=5, sampling=shaped)
    for request, expected in zip(backend.requests, (None, grammar), strict=True):
        sampling = request.sampling
        assert replace(sampling, seed=0) == replace(asked, temperature=0.0, grammar=expected)
    for bad, field in (
        (Sampling(grammar=Grammar(GrammarKind.LARK, "start: /a/")), "grammar"),
        (Sampling(frequency_penalty=9.0), "frequency_penalty"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            await collect(client, "hi", max_new_tokens=5, sampling=bad)
        assert raised.value.field == field
