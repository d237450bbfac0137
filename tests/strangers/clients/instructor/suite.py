"""Instructor in each of its modes that an OpenAI-compatible server can serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

import instructor
import openai
import pytest
from pydantic import BaseModel, Field

BASE = f"{os.environ['MESH_URL']}/v1"


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def ask(client, **options):
    return client.chat.completions.create(
        model=os.environ["MESH_MODEL"],
        messages=[{"role": "user", "content": "Ada is 36 years old."}],
        max_tokens=120,
        temperature=0,
        max_retries=0,
        **options,
    )


def open_client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(
        openai.OpenAI(base_url=BASE, api_key="none", max_retries=0), mode=mode
    )


@pytest.mark.parametrize(
    "mode",
    [
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON,
        instructor.Mode.JSON_SCHEMA,
        instructor.Mode.MD_JSON,
        instructor.Mode.PARALLEL_TOOLS,
        instructor.Mode.RESPONSES_TOOLS,
    ],
    ids=lambda mode: mode.name,
)
def test_mode(mode):
    if mode is instructor.Mode.PARALLEL_TOOLS:
        people = ask(open_client(mode), response_model=Iterable[Person])
        assert all(isinstance(person, Person) for person in people)
    else:
        assert isinstance(ask(open_client(mode), response_model=Person), Person)


async def _ask_async() -> Person:
    client = instructor.from_openai(
        openai.AsyncOpenAI(base_url=BASE, api_key="none", max_retries=0),
        mode=instructor.Mode.JSON_SCHEMA,
    )
    return await ask(client, response_model=Person)


def test_async():
    assert isinstance(asyncio.run(_ask_async()), Person)


def test_partial_answers_stream():
    client = open_client(instructor.Mode.JSON_SCHEMA)
    *_, last = ask(client, response_model=instructor.Partial[Person], stream=True)
    assert last.name and last.age is not None


def test_raw_answer_comes_beside_the_model():
    client = open_client(instructor.Mode.JSON_SCHEMA)
    person, raw = client.chat.completions.create_with_completion(
        model=os.environ["MESH_MODEL"],
        messages=[{"role": "user", "content": "Ada is 36 years old."}],
        response_model=Person,
        max_tokens=120,
        temperature=0,
    )
    assert isinstance(person, Person) and raw.usage.total_tokens > 0
