"""Anthropic's client for Python at the gateway's /v1/messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import anthropic
import pytest
from pydantic import BaseModel

MODEL = os.environ["MESH_MODEL"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


class Person(BaseModel):
    age: int
    is_alive: bool


@pytest.fixture
def client() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=os.environ["MESH_URL"], api_key="none", max_retries=0, timeout=600
    ) as client:
        yield client


def ask(client, **options):
    settings = {"max_tokens": 24, "messages": QUESTION, "extra_body": {"temperature": 0}, **options}
    return client.messages.create(model=MODEL, **settings)


def count_input(usage):
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_usage_tells_what_was_read_from_the_cache(client):
    used = [ask(client, system="Name the river, too. " * 4).usage for _ in range(2)]
    assert used[1].cache_read_input_tokens > 0 == used[1].cache_creation_input_tokens
    assert count_input(used[0]) == count_input(used[1])


def test_message(client):
    answer = ask(client)
    assert answer.type == "message" and answer.role == "assistant"
    assert "Paris" in answer.content[0].text
    assert answer.usage.output_tokens > 3 and answer.stop_reason in ("end_turn", "max_tokens")


def test_message_stream_helper(client):
    with client.messages.stream(
        model=MODEL, max_tokens=24, messages=QUESTION, extra_body={"temperature": 0}
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "Paris" in text and final.content[0].text == text
    assert count_input(final.usage) > 3 and final.usage.output_tokens > 3


def test_message_raw_stream_has_the_events_in_order(client):
    kinds = [event.type for event in ask(client, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert "content_block_start" in kinds and "content_block_stop" in kinds


def test_message_async():
    async def run() -> str:
        async with anthropic.AsyncAnthropic(
            base_url=os.environ["MESH_URL"], api_key="none", max_retries=0
        ) as client:
            return (await ask(client)).content[0].text

    assert "Paris" in asyncio.run(run())


def test_system_and_several_turns(client):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": "Hello! How can I help?"},
        *QUESTION,
    ]
    answer = ask(client, messages=turns, system=[{"type": "text", "text": "You are terse."}])
    assert answer.content[0].text


def test_stop_sequence(client):
    answer = ask(client, stop_sequences=["Paris"])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == "Paris"
    assert "Paris" not in answer.content[0].text


def test_length_that_cuts(client):
    answer = ask(client, max_tokens=2)
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 2


def test_sampling(client):
    extra = {"temperature": 0.7, "top_p": 0.9, "top_k": 20}
    assert ask(client, extra_body=extra, metadata={"user_id": "a"}).content


def test_forced_call(client):
    choice = {"type": "any", "disable_parallel_tool_use": True}
    answer = ask(client, tools=[TOOL], tool_choice=choice, max_tokens=100)
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "weather" and set(call.input) == {"city", "days"}


def test_forced_call_by_name_streams(client):
    with client.messages.stream(
        model=MODEL,
        max_tokens=100,
        messages=QUESTION,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather"},
        extra_body={"temperature": 0},
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert call.input["days"] in (1, 7)


def test_tool_result_is_answered(client):
    turns = [
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}],
        },
    ]
    assert ask(client, messages=turns, tools=[TOOL]).content


def test_parse_into_a_pydantic_model(client):
    answer = client.messages.parse(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": "Invent a person."}],
        output_format=Person,
        extra_body={"temperature": 0},
    )
    assert isinstance(answer.parsed_output, Person)


def test_count_tokens(client):
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION)
    assert counted.input_tokens == count_input(ask(client).usage)


def test_unknown_model_is_not_found(client):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude-99", max_tokens=8, messages=QUESTION)


def test_bad_request_has_anthropics_shape(client):
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client, messages=[])
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "invalid_request_error"


# What is not served.


def test_image(client):
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    ask(client, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])


def test_document(client):
    source = {"type": "text", "media_type": "text/plain", "data": "a text"}
    ask(client, messages=[{"role": "user", "content": [{"type": "document", "source": source}]}])


def test_thinking(client):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    ask(client, max_tokens=2048, thinking=thinking)


def test_web_search(client):
    ask(client, tools=[{"type": "web_search_20250305", "name": "web_search"}])


def test_prefilled_answer(client):
    ask(client, messages=[*QUESTION, {"role": "assistant", "content": "The capital is"}])


def test_batches(client):
    client.messages.batches.list()


def test_files(client):
    client.files.list()
