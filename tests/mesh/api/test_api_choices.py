"""Several choices of one request: one prompt, and places that the swarm has not got at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from mesh.api.choice_turns import MAX_PAUSES
from mesh.api.errors import BackendBusy
from tests.mesh.api.test_api_limits import connect, make_raw_request, wait_until
from tests.mesh.api.test_api_streaming import read_events
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL, LocalBackend

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/chat/completions"


@dataclass
class FullBackend(LocalBackend):
    """Has ``places``; a request beyond them finds it busy, as hosters do."""

    places: int = 1
    refusals: int = 0
    always_full_after: int | None = None

    async def generate(self, request):
        is_full = self.running >= self.places
        if self.always_full_after is not None and len(self.requests) >= self.always_full_after:
            is_full = True
        if is_full:
            self.refusals += 1
            raise BackendBusy(retry_after_s=0)
        async with aclosing(super().generate(request)) as pieces:
            async for piece in pieces:
                yield piece


@pytest.fixture
def open_full(open_api, tokenizer):
    async def open_it(**options):
        backend = FullBackend(tokenizer=tokenizer, delay_s=0.001, **options)
        return backend, await open_api(backend)

    return open_it


@pytest.mark.parametrize("is_stream", [True, False])
async def test_choices_beyond_the_free_places_come_when_another_ends(open_full, is_stream):
    backend, api = await open_full(places=1)
    body = {**CHAT, "n": 4, "max_tokens": 12, "stream": is_stream}
    response = await api.post(PATH, json=body)
    assert response.status_code == 200
    assert backend.refusals > 0 and len(backend.requests) == 4 and backend.running == 0
    if not is_stream:
        assert len({c["message"]["content"] for c in response.json()["choices"]}) == 4
        return
    *events, last = read_events(response)
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert not any("error" in chunk for chunk in chunks)
    ended = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(ended) == [0, 1, 2, 3]


async def test_a_request_of_which_nothing_fits_is_refused_with_its_status(open_full):
    _, api = await open_full(places=0)
    response = await api.post(PATH, json={**CHAT, "n": 3, "stream": True})
    assert check_error(response, 503)["code"] == "overloaded"


async def test_a_swarm_that_stays_busy_ends_the_rest_after_bounded_tries(open_full):
    backend, api = await open_full(places=9, always_full_after=2)
    response = await api.post(PATH, json={**CHAT, "n": 4, "max_tokens": 5, "stream": True})
    assert response.status_code == 200
    last = json.loads(read_events(response)[-1])
    assert last["error"]["code"] == "overloaded"
    assert backend.refusals <= MAX_PAUSES + 2 * 4
    await wait_until(lambda: backend.running == 0)


async def test_choices_of_one_prompt_ask_when_the_first_has_its_first_token(open_api, make_backend):
    """What the first computed of the prompt is there then, so nobody computes it again."""
    tokens_before = []

    class Watching(LocalBackend):
        tokens = 0

        async def generate(self, request):
            tokens_before.append(self.tokens)
            async for piece in super().generate(request):
                self.tokens += type(piece).__name__ == "Generated"
                yield piece

    backend = Watching(tokenizer=make_backend().tokenizer, delay_s=0.002)
    api = await open_api(backend)
    response = await api.post(PATH, json={**CHAT, "n": 3, "max_tokens": 6})
    assert response.status_code == 200
    assert tokens_before[0] == 0 and min(tokens_before[1:]) >= 1
    # Other prompts of one request wait for nothing of each other.
    tokens_before.clear()
    backend.tokens = 0
    body = {"model": MODEL, "prompt": ["one", "two", "three"], "max_tokens": 6}
    assert (await api.post("/v1/completions", json=body)).status_code == 200
    assert tokens_before == [0, 0, 0]


async def test_a_first_choice_that_fails_ends_the_request_and_leaves_nothing(
    open_api, make_backend
):
    backend = make_backend(failure=RuntimeError("secret"), fail_after=0)
    api = await open_api(backend)
    check_error(await api.post(PATH, json={**CHAT, "n": 3}), 500)
    backend.failure = None
    assert len((await api.post(PATH, json={**CHAT, "n": 3})).json()["choices"]) == 3


async def test_a_queued_stream_gets_bytes_before_its_turn(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.01)
    limits = {"max_generations": 1, "max_wait_s": 20.0, "stream_start_s": 0.1}
    api = await open_api(backend, limits=limits)
    async with connect(api) as (_, first):
        first.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 1)
        body = {**CHAT, "stream": True, "max_tokens": 2}
        async with asyncio.timeout(20), api.stream("POST", PATH, json=body) as response:
            assert response.status_code == 200
            lines = response.aiter_lines()
            assert await anext(lines) == ": waiting"
            first.transport.abort()
            rest = [line async for line in lines]
    assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in rest)


async def test_a_queued_stream_whose_turn_never_comes_is_told_so(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.01)
    limits = {"max_generations": 1, "max_wait_s": 0.3, "stream_start_s": 0.05}
    api = await open_api(backend, limits=limits)
    async with connect(api) as (_, first):
        first.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 1)
        response = await api.post(PATH, json={**CHAT, "stream": True})
    assert response.status_code == 200
    (event,) = read_events(response)
    assert json.loads(event)["error"]["code"] == "overloaded"


async def test_a_caller_who_leaves_the_queue_leaves_nothing(open_api, make_backend):
    backend = make_backend(is_endless=True, delay_s=0.01)
    limits = {"max_generations": 1, "max_waiting": 1, "stream_start_s": 0.05}
    api = await open_api(backend, limits=limits)
    async with connect(api) as (_, first):
        first.write(make_raw_request({**CHAT, "stream": True}))
        await wait_until(lambda: backend.running == 1)
        for _ in range(4):
            # The queue has one place: it is free again as soon as its owner has left.
            async with asyncio.timeout(10):
                while not await is_queued(api):
                    pass
    await wait_until(lambda: backend.running == 0)
    assert len(backend.requests) == 1


async def is_queued(api) -> bool:
    """Ask for a stream, and leave when its status is there."""
    async with connect(api) as (reader, writer):
        writer.write(make_raw_request({**CHAT, "stream": True}))
        return b" 200 " in await reader.readline()
