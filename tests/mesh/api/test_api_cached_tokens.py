"""What an answer's usage says of the prompt's beginning that hosters had kept, in every shape."""

from __future__ import annotations

import json

import pytest

from tests.mesh.api.test_api_mesh_backend import MODEL as REAL_MODEL
from tests.mesh.api.test_api_mesh_backend import open_swarm, swarm  # noqa: F401
from tests.support.local_backend import MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi there, how are you?"}]}
CACHED = 2


def read_named(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.fixture
async def caching(open_api, make_backend):
    return await open_api(make_backend(cached_tokens=CACHED))


async def test_openai_s_usage_has_the_cached_tokens(caching):
    reply = (await caching.post("/v1/chat/completions", json={**CHAT, "max_tokens": 3})).json()
    usage = reply["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": CACHED}
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    body = {**CHAT, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    events = read_named((await caching.post("/v1/chat/completions", json=body)).text)
    assert events[-1]["usage"] == usage
    text = {"model": MODEL, "prompt": "An epoch has", "max_tokens": 3}
    reply = (await caching.post("/v1/completions", json=text)).json()
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED}


async def test_choices_of_one_prompt_count_it_once_and_prompts_add_up(caching):
    body = {**CHAT, "max_tokens": 3, "n": 3}
    reply = (await caching.post("/v1/chat/completions", json=body)).json()
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED}
    prompts = ["An epoch has four phases", "Every hoster commits before"]
    body = {"model": MODEL, "prompt": prompts, "n": 2, "max_tokens": 3}
    reply = (await caching.post("/v1/completions", json=body)).json()
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": 2 * CACHED}


async def test_no_more_than_the_prompt_is_told(open_api, make_backend):
    api = await open_api(make_backend(cached_tokens=1 << 31))
    usage = (await api.post("/v1/chat/completions", json={**CHAT, "max_tokens": 3})).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]


async def test_without_a_hoster_s_word_nothing_is_told(api):
    reply = (await api.post("/v1/chat/completions", json={**CHAT, "max_tokens": 3})).json()
    assert "prompt_tokens_details" not in reply["usage"]
    reply = (await api.post("/v1/messages", json={**CHAT, "max_tokens": 3})).json()
    assert set(reply["usage"]) == {"input_tokens", "output_tokens"}
    body = {"model": MODEL, "input": "hi", "max_output_tokens": 3}
    reply = (await api.post("/v1/responses", json=body)).json()
    assert reply["usage"]["input_tokens_details"] == {"cached_tokens": 0}


async def test_responses_tell_it_in_their_details(caching):
    body = {"model": MODEL, "input": "hi there, how are you?", "max_output_tokens": 3}
    reply = (await caching.post("/v1/responses", json=body)).json()
    assert reply["usage"]["input_tokens_details"] == {"cached_tokens": CACHED}
    stream = await caching.post("/v1/responses", json={**body, "stream": True})
    assert read_named(stream.text)[-1]["response"]["usage"] == reply["usage"]


async def test_anthropic_s_counts_of_the_input_add_up_to_the_prompt(caching, api):
    body = {**CHAT, "max_tokens": 3}
    whole = (await api.post("/v1/messages", json=body)).json()["usage"]["input_tokens"]
    usage = (await caching.post("/v1/messages", json=body)).json()["usage"]
    assert usage == {
        "input_tokens": whole - CACHED,
        "cache_read_input_tokens": CACHED,
        "cache_creation_input_tokens": 0,
        "output_tokens": 3,
    }
    events = read_named((await caching.post("/v1/messages", json={**body, "stream": True})).text)
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == CACHED
    (end,) = (event for event in events if event["type"] == "message_delta")
    assert end["usage"] == usage


async def test_real_hosters_tell_a_client_of_openai_what_they_kept(open_swarm):  # noqa: F811
    client, _ = await open_swarm((0, 4), (4, 8))
    question = "What does a hoster do in this network, and who looks at what it has done?"
    body = {"model": REAL_MODEL, "messages": [{"role": "user", "content": question}]}
    async with client:
        told = [
            (await client.chat.completions.create(**body, max_tokens=2, n=2)).usage
            for _ in range(2)
        ]
    cached = [usage.prompt_tokens_details.cached_tokens for usage in told]
    assert cached[0] == 0 and cached[1] > 0 and cached[1] % 8 == 0
    assert cached[1] < told[1].prompt_tokens
