"""LlamaIndex's OpenAILike at the gateway."""

from __future__ import annotations

import os

from llama_index.core.base.llms.types import ChatMessage, ImageBlock
from llama_index.core.bridge.pydantic import BaseModel, Field
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

QUESTION = "What is the capital of France?"


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    age: int


def make(**options) -> LLM:
    settings = {
        "model": os.environ["MESH_MODEL"],
        "api_base": f"{os.environ['MESH_URL']}/v1",
        "api_key": "none",
        "is_chat_model": True,
        "is_function_calling_model": True,
        "temperature": 0,
        "max_tokens": 48,
        "context_window": 2048,
        "max_retries": 0,
        "timeout": 600,
    }
    return OpenAILike(**{**settings, **options})


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


def test_chat():
    assert "Paris" in make().chat([ChatMessage(role="user", content=QUESTION)]).message.content


def test_chat_stream():
    pieces = [*make().stream_chat([ChatMessage(role="user", content=QUESTION)])]
    assert "Paris" in pieces[-1].message.content
    assert "".join(piece.delta or "" for piece in pieces) == pieces[-1].message.content


async def test_chat_async():
    answer = await make().achat([ChatMessage(role="user", content=QUESTION)])
    assert "Paris" in answer.message.content


async def test_chat_stream_async():
    text = ""
    async for piece in await make().astream_chat([ChatMessage(role="user", content=QUESTION)]):
        text += piece.delta or ""
    assert "Paris" in text


def test_complete_over_chat():
    assert "Paris" in make().complete(QUESTION).text


def test_complete_over_the_legacy_door():
    llm = make(is_chat_model=False, is_function_calling_model=False, max_tokens=5)
    assert "Paris" in llm.complete("The capital of France is").text


def test_complete_stream_over_the_legacy_door():
    llm = make(is_chat_model=False, is_function_calling_model=False, max_tokens=5)
    assert "Paris" in [*llm.stream_complete("The capital of France is")][-1].text


def test_forced_call_of_a_function():
    llm = make(additional_kwargs={"parallel_tool_calls": False})
    tool = FunctionTool.from_defaults(weather)
    answer = llm.chat_with_tools([tool], user_msg="Weather in Rome?", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather" and set(call.tool_kwargs) == {"city"}


def test_structured_prediction_with_a_json_schema():
    llm = make(should_use_structured_outputs=True)
    person = llm.structured_predict(Person, PromptTemplate("Invent a person."))
    assert isinstance(person, Person)


def test_structured_prediction_with_a_forced_call():
    person = make().structured_predict(Person, PromptTemplate("Invent a person."))
    assert isinstance(person, Person)


def test_chat_engine_remembers_turns():
    engine = SimpleChatEngine.from_defaults(llm=make(max_tokens=24))
    engine.chat("My name is Ada.")
    assert engine.chat("What is the capital of France?").response
    assert len(engine.chat_history) == 4


def test_log_probabilities():
    llm = make(logprobs=True, top_logprobs=2, max_tokens=4)
    answer = llm.chat([ChatMessage(role="user", content=QUESTION)])
    assert len(answer.logprobs) == 4


def test_image():
    block = ImageBlock(image=b"iVBORw0KGgo=", image_mimetype="image/png")
    make().chat([ChatMessage(role="user", blocks=[block])])
