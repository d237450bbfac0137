"""The official openai package against a real server, streaming and not."""

from __future__ import annotations

import asyncio

import openai
import pytest

from mesh.api.errors import BackendBusy
from tests.support.local_backend import ANSWER, MODEL

QUESTION = [{"role": "user", "content": "How does an epoch work?"}]


def make_client(api, **options) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{api.base_url}/v1", api_key="unused", max_retries=0, **options
    )


async def test_chat_answers_in_one_piece(api, backend):
    async with make_client(api) as client:
        reply = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=400
        )
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert backend.running == 0


async def test_chat_streams_the_same_text(api):
    async with make_client(api) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 10
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_log_probabilities_have_bytes_and_alternatives(api):
    async with make_client(api) as client:
        reply = await client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=60,
            logprobs=True,
            top_logprobs=3,
        )
    entries = reply.choices[0].logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace")
    assert text == reply.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert entries[0].top_logprobs[0].token == entries[0].token


async def test_several_choices_differ_and_repeat_by_seed(api):
    async with make_client(api) as client:
        ask = lambda: client.chat.completions.create(  # noqa: E731
            model=MODEL, messages=QUESTION, seed=7, n=3, max_tokens=12
        )
        first, second = await asyncio.gather(ask(), ask())
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]


async def test_legacy_completion_and_its_stream_agree(api):
    async with make_client(api) as client:
        options = {"model": MODEL, "prompt": "Once", "temperature": 0, "max_tokens": 20}
        reply = await client.completions.create(**options)
        stream = await client.completions.create(**options, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert reply.choices[0].text == streamed
    assert reply.choices[0].finish_reason == "length"


async def test_models_are_listed_and_found_by_a_name_with_a_slash(api):
    async with make_client(api) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "mesh"


async def test_an_unknown_model_is_the_clients_not_found_error(api):
    async with make_client(api) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-99", messages=QUESTION)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


async def test_a_busy_swarm_is_an_error_that_the_client_retries(open_api, make_backend):
    backend = make_backend(failure=BackendBusy(retry_after_s=3))
    api = await open_api(backend)
    async with make_client(api) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "3"


async def test_an_error_in_mid_stream_reaches_the_client_as_an_api_error(open_api, make_backend):
    from mesh.api.errors import GenerationFailed

    backend = make_backend(failure=GenerationFailed("every route was lost"), fail_after=3)
    api = await open_api(backend)
    async with make_client(api) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True
        )
        with pytest.raises(openai.APIError, match="every route was lost"):
            async for _ in stream:
                pass


async def test_the_synchronous_client_works_too(api):
    def ask() -> str:
        with openai.OpenAI(base_url=f"{api.base_url}/v1", api_key="unused") as client:
            reply = client.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, stop=["propose"]
            )
        return reply.choices[0].message.content

    assert await asyncio.to_thread(ask) == "An epoch has four phases: "
