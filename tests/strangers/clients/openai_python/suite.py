"""OpenAI's client for Python at each of its endpoints that the gateway serves, and at others."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel, Field

MODEL = os.environ["MESH_MODEL"]
BASE = f"{os.environ['MESH_URL']}/v1"
DIMENSIONS = 576
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=600) as client:
        yield client


def ask(client: openai.OpenAI, **options):
    settings = {"max_tokens": 24, "temperature": 0, **options}
    return client.chat.completions.create(model=MODEL, messages=QUESTION, **settings)


def test_chat(client):
    answer = ask(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_usage_tells_cached_tokens(client):
    question = "What is the capital of France, and on which river is it? Name both in a line."
    asked = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 2}
    used = [client.chat.completions.create(**asked).usage for _ in range(2)]
    cached = [usage.prompt_tokens_details.cached_tokens for usage in used]
    assert 0 < cached[1] < used[1].prompt_tokens and cached[0] <= cached[1]


def test_chat_stream_says_the_same(client):
    chunks = [*ask(client, stream=True, stream_options={"include_usage": True})]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(client).choices[0].message.content
    assert chunks[-1].usage.completion_tokens > 3


def test_chat_stream_helper(client):
    with client.chat.completions.stream(
        model=MODEL, messages=QUESTION, max_tokens=24, temperature=0
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds and "Paris" in final.choices[0].message.content


def test_chat_async():
    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=BASE, api_key="none") as client:
            answers = await asyncio.gather(*[ask(client) for _ in range(4)])
        return {answer.choices[0].message.content for answer in answers}

    assert len(asyncio.run(run())) == 1


def test_choices_of_a_seed_repeat(client):
    texts = [
        [choice.message.content for choice in ask(client, n=3, seed=7, temperature=1).choices]
        for _ in range(2)
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_log_probabilities(client):
    answer = ask(client, logprobs=True, top_logprobs=3, max_tokens=5)
    entries = answer.choices[0].logprobs.content
    assert [len(entry.top_logprobs) for entry in entries] == [3] * 5
    assert all(entry.top_logprobs[0].token == entry.token for entry in entries)


def test_sampling_parameters(client):
    answer = ask(
        client,
        temperature=0.7,
        top_p=0.9,
        seed=3,
        stop=["\n"],
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logit_bias={"100": -100},
        user="a",
        metadata={"a": "b"},
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
    )
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_forced_call(client):
    options = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100}
    answer = ask(client, tools=[TOOL], **options)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}


def test_forced_calls_side_by_side(client):
    """A small model goes on to call until its length cuts it; what is whole until then parses."""
    answer = ask(client, tools=[TOOL], tool_choice="required", max_tokens=100)
    first, *others = answer.choices[0].message.tool_calls
    whole = others if answer.choices[0].finish_reason == "tool_calls" else others[:-1]
    for call in (first, *whole):
        assert set(json.loads(call.function.arguments)) == {"city", "days"}


def test_forced_call_by_name_streams_its_arguments(client):
    named = {"type": "function", "function": {"name": "weather"}}
    chunks = [*ask(client, tools=[TOOL], tool_choice=named, max_tokens=100, stream=True)]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == "weather" and deltas[0].id
    assert json.loads("".join(delta.function.arguments for delta in deltas))["days"] in (1, 7)


def test_tool_result_is_answered(client):
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city": "Rome", "days": 1}'}
    turns = [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=turns, tools=[TOOL], max_tokens=24, temperature=0
    )
    assert answer.choices[0].message.content


def test_parse_into_a_pydantic_model(client):
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Invent a person."}],
        response_format=Person,
        max_tokens=120,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_parse_a_pydantic_tool(client):
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Invent a person."}],
        tools=[openai.pydantic_function_tool(Person)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
        temperature=0,
    )
    for call in answer.choices[0].message.tool_calls:
        assert isinstance(call.function.parsed_arguments, Person)


def test_json_object(client):
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=200)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.lstrip().startswith("{")


def test_legacy_completion_and_echo(client):
    answer = client.completions.create(
        model=MODEL,
        prompt="The capital of France is",
        max_tokens=4,
        temperature=0,
        echo=True,
        logprobs=1,
    )
    (choice,) = answer.choices
    assert choice.text.startswith("The capital of France is")
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)
    assert choice.logprobs.token_logprobs[0] is None


def test_legacy_completion_of_several_prompts_streams(client):
    stream = client.completions.create(
        model=MODEL, prompt=["One, two,", "A, B,"], max_tokens=5, temperature=0, stream=True
    )
    assert {choice.index for chunk in stream for choice in chunk.choices} == {0, 1}


def test_responses(client):
    answer = client.responses.create(
        model=MODEL, input="What is the capital of France?", max_output_tokens=24, temperature=0
    )
    assert "Paris" in answer.output_text and answer.usage.output_tokens > 3


def test_responses_stream(client):
    with client.responses.stream(
        model=MODEL, input="What is the capital of France?", max_output_tokens=24, temperature=0
    ) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert final.output_text == text and "Paris" in text


def test_responses_forced_call(client):
    answer = client.responses.create(
        model=MODEL,
        input="Weather in Rome?",
        tools=[{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}],
        tool_choice="required",
        max_output_tokens=100,
        temperature=0,
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls and all(set(json.loads(call.arguments)) == {"city", "days"} for call in calls)


def test_responses_parse(client):
    answer = client.responses.parse(
        model=MODEL,
        input="Invent a person.",
        text_format=Person,
        max_output_tokens=120,
        temperature=0,
    )
    assert isinstance(answer.output_parsed, Person)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client, encoding):
    answer = client.embeddings.create(
        model=MODEL, input=["a cat", "a dog", "a cat"], encoding_format=encoding
    )
    first, second, again = (entry.embedding for entry in answer.data)
    if encoding == "float":
        assert len(first) == DIMENSIONS and first == pytest.approx(again, abs=1e-4)
        assert first != pytest.approx(second, abs=1e-4)
    assert answer.usage.prompt_tokens > 3


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-99", messages=QUESTION)


# What is not served. Each is asked for as a user would, and fails with the client's own error.


def test_image(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [image]}])


def test_audio_answer(client):
    ask(client, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})


def test_stored_chat(client):
    ask(client, store=True)


def test_stored_response(client):
    made = client.responses.create(model=MODEL, input="hi", store=True, max_output_tokens=8)
    assert client.responses.retrieve(made.id) == made
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_conversation_of_responses(client):
    first = client.responses.create(model=MODEL, input="hi", store=True, max_output_tokens=8)
    second = client.responses.create(
        model=MODEL, input="And?", previous_response_id=first.id, max_output_tokens=8
    )
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens


def test_conversation_object(client):
    client.responses.create(model=MODEL, input="hi", conversation="conv_1")


def test_web_search_tool(client):
    client.responses.create(model=MODEL, input="hi", tools=[{"type": "web_search"}])


def test_embeddings_of_other_dimensions(client):
    client.embeddings.create(model=MODEL, input="hi", dimensions=64)


def test_moderation(client):
    client.moderations.create(input="hi")


def test_files(client):
    client.files.list()


def test_image_generation(client):
    client.images.generate(prompt="a cat")


def test_transcription(client):
    client.audio.transcriptions.create(model=MODEL, file=("a.wav", b"RIFF"))


def test_batches(client):
    client.batches.list()
