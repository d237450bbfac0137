"""A gateway in front of real engines: what they compute for it, and what is left of readers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesh.api.mesh_backend import MeshBackend
from mesh.assets import shipped_model_path
from mesh.model.capacity import PAGE_TOKENS
from tests.mesh.api.test_api_limits import connect, make_raw_request, wait_until
from tests.mesh.client.conftest import Swarm
from tests.mesh.client.test_prefixes import count_rows
from tests.support.gateways import open_client

MODEL = "mesh-tiny"
TEXT = "How does one epoch work, step by step, and who checks what the hosters say? " * 4
CHOICES = 5


@pytest.fixture
async def swarm():
    swarm = Swarm(shipped_model_path())
    yield swarm
    for hoster in swarm.hosters:
        await hoster.stop()


@pytest.mark.parametrize("ranges", [[(0, 8)], [(0, 4), (4, 8)]], ids=["one", "two"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_prompt_of_several_choices_is_computed_once(swarm, ranges, is_stream):
    for start, end in ranges:
        await swarm.add_hoster(start, end)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id=MODEL, created_s=1)
        api = await stack.enter_async_context(open_client(backend))
        rows = count_rows(swarm)
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": TEXT}],
            "n": CHOICES,
            "max_tokens": 6,
            "temperature": 1.0,
            "stream": is_stream,
        }
        response = await api.post("/v1/chat/completions", json=body)
        assert response.status_code == 200 and "error" not in response.text
        prompt = len(client.tokenizer.encode_chat(body["messages"]))
    # What is left of a prompt behind its last full page is computed for each choice.
    rest = (prompt - 1) % PAGE_TOKENS + 1
    assert prompt > 4 * PAGE_TOKENS
    for noted in rows:
        computed = sum(min(count, prompt - place) for place, count in noted if place < prompt)
        assert computed == prompt + (CHOICES - 1) * rest


async def test_a_hundred_readers_who_leave_in_a_stream_leave_no_session(swarm):
    """More than the hosters take at once: some leave while they wait for a place."""
    await swarm.add_hoster(0, 4)
    await swarm.add_hoster(4, 8)
    async with contextlib.AsyncExitStack() as stack:
        client = await swarm.open_client(stack)
        backend = MeshBackend(client, model_id=MODEL, created_s=1)
        limits = {"stream_start_s": 0.2, "max_generations": 64}
        api = await stack.enter_async_context(open_client(backend, limits=limits))
        chat = {"model": MODEL, "messages": [{"role": "user", "content": TEXT}]}
        warm = await api.post(
            "/v1/chat/completions", json={**chat, "max_tokens": 2, "stream": True}
        )
        assert warm.is_success
        await wait_until(lambda: count_sessions(swarm) == 0)
        tasks = len(asyncio.all_tasks())
        async with contextlib.AsyncExitStack() as readers:
            opened = [await readers.enter_async_context(connect(api)) for _ in range(100)]
            for _, writer in opened:
                writer.write(make_raw_request({**chat, "stream": True, "max_tokens": 900}))
            heads = await asyncio.gather(*(reader.readline() for reader, _ in opened))
            assert all(b" 200 " in head for head in heads)
            assert count_sessions(swarm) > 0
        await wait_until(lambda: count_sessions(swarm) == 0, timeout_s=60)
        await wait_until(lambda: len(asyncio.all_tasks()) <= tasks, timeout_s=60)
        answer = await api.post("/v1/chat/completions", json={**chat, "max_tokens": 2})
        assert answer.status_code == 200
    for hoster in swarm.hosters:
        # Every page is free, or keeps a prompt's beginning for the next one.
        assert hoster.engine.free_cache_tokens >= hoster.engine.limits.cache_tokens


def count_sessions(swarm) -> int:
    return sum(hoster.engine.session_count for hoster in swarm.hosters)
