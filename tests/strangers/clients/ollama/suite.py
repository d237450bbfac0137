"""Ollama's client for Python at the gateway's /api endpoints."""

from __future__ import annotations

import asyncio
import os

import ollama
import pytest
from pydantic import BaseModel, ConfigDict, Field

MODEL = os.environ["MESH_MODEL"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
OPTIONS = {"temperature": 0, "num_predict": 24}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    age: int


def weather(city: str) -> str:
    """Return the weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


@pytest.fixture
def client() -> ollama.Client:
    return ollama.Client(host=os.environ["MESH_URL"], timeout=600)


def test_chat(client):
    answer = client.chat(MODEL, messages=QUESTION, options=OPTIONS)
    assert "Paris" in answer.message.content
    assert answer.done and answer.eval_count > 3 and answer.prompt_eval_count > 3


def test_chat_stream(client):
    parts = [*client.chat(MODEL, messages=QUESTION, options=OPTIONS, stream=True)]
    assert "Paris" in "".join(part.message.content for part in parts)
    assert [part.done for part in parts][-1] and parts[-1].total_duration > 0


def test_chat_async():
    async def run() -> str:
        client = ollama.AsyncClient(host=os.environ["MESH_URL"])
        parts = await client.chat(MODEL, messages=QUESTION, options=OPTIONS, stream=True)
        return "".join([part.message.content async for part in parts])

    assert "Paris" in asyncio.run(run())


def test_name_with_the_tag_that_ollama_adds(client):
    answer = client.chat(f"{MODEL}:latest", messages=QUESTION, options=OPTIONS)
    assert "Paris" in answer.message.content


def test_a_length_that_cuts(client):
    options = {**OPTIONS, "num_predict": 2}
    answer = client.chat(MODEL, messages=QUESTION, options=options)
    assert answer.done_reason == "length" and answer.eval_count == 2


def test_options_of_sampling(client):
    options = {**OPTIONS, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "seed": 3}
    options |= {"stop": ["."], "repeat_penalty": 1.1, "num_ctx": 2048}
    texts = {client.chat(MODEL, messages=QUESTION, options=options).message.content for _ in "12"}
    assert len(texts) == 1 and "." not in texts.pop()


def test_format_is_a_schema(client):
    answer = client.chat(
        MODEL,
        messages=[{"role": "user", "content": "Invent a person."}],
        format=Person.model_json_schema(),
        options={"temperature": 0, "num_predict": 120},
    )
    Person.model_validate_json(answer.message.content)


def test_format_json(client):
    answer = client.chat(MODEL, messages=QUESTION, format="json", options=OPTIONS)
    assert answer.message.content.lstrip().startswith("{")


def test_tools_are_taken_and_a_result_is_answered(client):
    turns = [
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}],
        },
        {"role": "tool", "content": "sunny in Rome", "tool_name": "weather"},
    ]
    answer = client.chat(MODEL, messages=turns, tools=[weather], options=OPTIONS)
    assert answer.message.content or answer.message.tool_calls


def test_generate(client):
    answer = client.generate(MODEL, prompt=QUESTION[0]["content"], options=OPTIONS)
    assert "Paris" in answer.response


def test_generate_raw_stream(client):
    parts = client.generate(
        MODEL, prompt="The capital of France is", raw=True, stream=True, options=OPTIONS
    )
    assert "Paris" in "".join(part.response for part in parts)


def test_embed(client):
    answer = client.embed(MODEL, input=["a cat", "a dog"])
    assert [len(vector) for vector in answer.embeddings] == [576, 576]


def test_list(client):
    assert [model.model for model in client.list().models] == [MODEL]


def test_show(client):
    said = client.show(MODEL)
    assert "completion" in said.capabilities and said.modelinfo


def test_unknown_model_is_not_found(client):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("llama9", messages=QUESTION)
    assert caught.value.status_code == 404


def test_log_probabilities(client):
    asked = {"messages": QUESTION, "options": OPTIONS, "logprobs": True, "top_logprobs": 3}
    answer = client.chat(MODEL, **asked)
    assert "".join(entry.token for entry in answer.logprobs) == answer.message.content
    assert all(len(entry.top_logprobs) == 3 for entry in answer.logprobs)
    parts = [*client.chat(MODEL, **asked, stream=True)]
    told = [entry.token for part in parts for entry in part.logprobs or ()]
    assert told == [entry.token for entry in answer.logprobs]


def test_no_thoughts_where_none_are_wanted(client):
    answer = client.chat(MODEL, messages=QUESTION, think=False, options=OPTIONS)
    assert "Paris" in answer.message.content and not answer.message.thinking


# What is not served.


def test_image(client):
    client.chat(MODEL, messages=[{**QUESTION[0], "images": [b"\x89PNG"]}], options=OPTIONS)


def test_think(client):
    client.chat(MODEL, messages=QUESTION, think=True, options=OPTIONS)


def test_ps(client):
    client.ps()


def test_pull(client):
    client.pull("llama3.2")


def test_create(client):
    client.create("mine", from_=MODEL)


def test_copy(client):
    client.copy(MODEL, "mine")


def test_delete(client):
    status = client.delete(MODEL).status
    assert status == "success", f"status {status}"
