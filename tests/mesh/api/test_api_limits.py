"""Callers who leave, stall or come in crowds: their cache is freed, others are unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest

from mesh.api.keys_file import create_key
from mesh.api.limits import DEFAULT_ANSWER_TOKENS
from mesh.api.rate_limit import Rate
from tests.support.local_backend import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PATH = "/v1/chat/completions"


async def wait_until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Poll a condition that another task brings about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connect(api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        api.base_url.host, api.base_url.port, limit=1 << 12
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def make_raw_request(body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_caller_who_leaves_frees_the_backend(open_api, make_backend, is_stream):
    backend = make_backend(is_endless=True, delay_s=0.005)
    api = await open_api(backend)
    async with connect(api) as (_, writer):
        writer.write(make_raw_request({**CHAT, "stream": is_stream, "n": 2}))
        await wait_until(lambda: backend.running == 2)
    await wait_until(lambda: backend.running == 0)


async def test_a_reader_who_takes_nothing_loses_the_stream_and_others_do_not(
    open_api, make_backend
):
    # Tokens of 100 kB each fill every buffer between the two sooner than 400 tokens do.
    backend = make_backend(is_endless=True, token_padding=100_000)
    api = await open_api(backend, limits={"send_timeout_s": 0.3})
    async with connect(api) as (_, writer):
        writer.write(make_raw_request({**CHAT, "stream": True, "max_tokens": 400}))
        await wait_until(lambda: backend.running == 1)
        other = await api.post(PATH, json={**CHAT, "max_tokens": 5})
        assert other.json()["choices"][0]["finish_reason"] == "length"
        await wait_until(lambda: backend.running == 0, timeout_s=10)
        assert len(backend.requests) == 2


async def test_two_hundred_connections_at_once_all_get_their_answer(open_api, make_backend):
    backend = make_backend(delay_s=0.001)
    api = await open_api(backend, limits={"max_generations": 16})
    pool = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=api.base_url, limits=pool, timeout=60) as crowd:
        asked = [crowd.post(PATH, json={**CHAT, "max_tokens": 8}) for _ in range(200)]
        replies = await asyncio.gather(*asked)
    assert {reply.status_code for reply in replies} == {200}
    texts = {reply.json()["choices"][0]["message"]["content"] for reply in replies}
    assert len(texts) == 1
    assert backend.peak <= 16 and backend.running == 0


async def test_beyond_the_queue_a_caller_is_told_when_to_come_back(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.01)
    limits = {"max_generations": 1, "max_waiting": 1}
    api = await open_api(backend, limits=limits)
    async with connect(api) as (_, first), connect(api) as (_, second):
        first.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 1)
        second.write(make_raw_request({**CHAT, "max_tokens": 2}))
        reply = await api.post(PATH, json=CHAT)
        while reply.status_code == 200:
            reply = await api.post(PATH, json=CHAT)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "overloaded"
    assert int(reply.headers["retry-after"]) > 0
    await wait_until(lambda: backend.running == 0)
    assert (await api.post(PATH, json={**CHAT, "max_tokens": 2})).status_code == 200


async def test_waiting_ends(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.01)
    api = await open_api(backend, limits={"max_generations": 1, "max_wait_s": 0.05})
    async with connect(api) as (_, writer):
        writer.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 1)
        assert (await api.post(PATH, json=CHAT)).status_code == 503


async def test_more_choices_than_places_are_refused_not_awaited(open_api, backend):
    api = await open_api(backend, limits={"max_generations": 2})
    reply = await api.post(PATH, json={**CHAT, "n": 3})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "n"


async def test_an_answer_that_takes_too_long_is_ended(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.02)
    api = await open_api(backend, limits={"generation_timeout_s": 0.1})
    reply = await api.post(PATH, json=CHAT)
    assert reply.status_code == 502 and reply.json()["error"]["code"] == "generation_failed"
    await wait_until(lambda: backend.running == 0)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: lo"])
async def test_a_head_that_never_ends_loses_the_connection(open_api, backend, sent):
    api = await open_api(backend, limits={"head_timeout_s": 0.1})
    async with connect(api) as (reader, writer), asyncio.timeout(5):
        writer.write(sent)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)


async def test_a_body_that_never_ends_is_408(open_api, backend):
    api = await open_api(backend, limits={"body_timeout_s": 0.1})
    async with connect(api) as (reader, writer), asyncio.timeout(5):
        writer.write(make_raw_request(CHAT)[:-3])
        assert b" 408 " in await reader.readline()


async def test_connections_beyond_the_limit_are_closed(open_api, backend):
    api = await open_api(backend, limits={"max_connections": 2})
    async with connect(api) as (first, _), connect(api), connect(api) as (third, _):
        async with asyncio.timeout(5):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await third.readexactly(1)
        assert not first.at_eof()


async def test_a_gateway_that_stops_lets_answers_finish(make_backend):
    from mesh.api.limits import Limits
    from mesh.api.server import ServeConfig, open_gateway

    backend = make_backend(delay_s=0.005)
    config = ServeConfig(port=0, limits=Limits(drain_s=5))
    async with httpx.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as tasks:
        async with open_gateway(config, backend) as gateway:
            ask = client.post(gateway.url + PATH, json={**CHAT, "stream": True})
            answer = tasks.create_task(ask)
            await wait_until(lambda: backend.running == 1)
    assert answer.result().text.endswith("data: [DONE]\n\n")
    assert backend.running == 0


async def test_a_gateway_that_must_stop_says_so_in_the_stream(make_backend):
    from mesh.api.limits import Limits
    from mesh.api.server import ServeConfig, open_gateway

    backend = make_backend(is_endless=True, delay_s=0.01)
    config = ServeConfig(port=0, limits=Limits(drain_s=0.1))
    async with httpx.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as tasks:
        async with open_gateway(config, backend) as gateway:
            ask = client.post(gateway.url + PATH, json={**CHAT, "stream": True})
            answer = tasks.create_task(ask)
            await wait_until(lambda: backend.running == 1)
    last = answer.result().text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "The gateway is stopping."
    assert backend.running == 0


async def test_an_answer_without_a_length_ends_at_the_default_one(open_api, make_backend):
    backend = make_backend(context=32_768, is_endless=True)
    api = await open_api(backend)
    reply = (await api.post(PATH, json=CHAT)).json()
    assert backend.requests[0].max_new_tokens == DEFAULT_ANSWER_TOKENS == 1024
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == DEFAULT_ANSWER_TOKENS
    schema = (await api.get("/openapi.json")).json()["components"]["schemas"]["ChatRequest"]
    for name in ("max_tokens", "max_completion_tokens"):
        assert str(DEFAULT_ANSWER_TOKENS) in schema["properties"][name]["description"]
    assert f'placeholder="{DEFAULT_ANSWER_TOKENS}"' in (await api.get("/")).text


async def read_until_reset(reader) -> None:
    """Wait until the other side is gone, whatever it sent before."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_reader_who_is_cut_off_leaves_no_socket_behind(open_api, make_backend, is_stream):
    """Nothing is read here, so the answer fills the system's buffers and the server's own."""
    backend = make_backend(is_endless=True, token_padding=40_000)
    api = await open_api(backend, limits={"send_timeout_s": 0.2})
    async with connect(api) as (_, writer):
        writer.write(make_raw_request({**CHAT, "stream": is_stream, "max_tokens": 400}))
        await wait_until(lambda: backend.running == 1)
        before = count_server_sockets(api)
        assert before >= 1
        writer.transport.pause_reading()
        await wait_until(lambda: count_server_sockets(api) < before, timeout_s=30)
        await wait_until(lambda: backend.running == 0)


def count_server_sockets(api) -> int:
    """Return the gateway's ends of connections; it runs in this process."""
    return sum(
        connection.laddr.port == api.base_url.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.status != psutil.CONN_LISTEN
    )


async def test_a_reader_who_is_slow_but_reads_keeps_its_answer(open_api, make_backend):
    backend = make_backend(is_endless=True, token_padding=40_000)
    api = await open_api(backend, limits={"send_timeout_s": 0.5})
    async with connect(api) as (reader, writer):
        body = {**CHAT, "max_tokens": 60}
        writer.write(make_raw_request(body))
        size = 0
        async with asyncio.timeout(60):
            while size < 60 * 40_000:
                part = await reader.read(1 << 15)
                assert part
                size += len(part)
                await asyncio.sleep(0.02)


async def test_a_body_without_a_key_is_neither_awaited_nor_kept(open_api, backend, tmp_path):
    keys = tmp_path / "keys.txt"
    create_key(keys, "me", rate=Rate(60, 60), now_s=1)
    api = await open_api(backend, keys_file=keys, limits={"head_timeout_s": 0.2})
    async with connect(api) as (reader, writer), asyncio.timeout(10):
        writer.write(make_raw_request(CHAT)[:-3])
        assert b" 401 " in await reader.readline()
        # What still comes of the body is dropped, and for a bounded time only.
        writer.write(b"x")
        await read_until_reset(reader)


async def test_a_hundred_readers_who_leave_in_a_stream_leave_nothing(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.05)
    api = await open_api(backend, limits={"max_generations": 100, "max_generations_per_key": 100})
    # The first stream of a process starts a watcher of the library's own.
    assert (await api.post(PATH, json={**CHAT, "max_tokens": 2, "stream": True})).is_success
    sockets, tasks = count_server_sockets(api), len(asyncio.all_tasks())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            _, writer = await stack.enter_async_context(connect(api))
            writer.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 100, timeout_s=60)
    await wait_until(lambda: backend.running == 0, timeout_s=30)
    await wait_until(lambda: count_server_sockets(api) == sockets, timeout_s=30)
    await wait_until(lambda: len(asyncio.all_tasks()) <= tasks, timeout_s=30)
    assert (await api.post(PATH, json={**CHAT, "max_tokens": 2})).status_code == 200
