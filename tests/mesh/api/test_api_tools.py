"""Tools through the official client: what the model is told, what it may write, what comes back."""

from __future__ import annotations

import json

import openai
import pytest

from mesh.api.structured import write_json_rule
from mesh.inference.grammar import GrammarKind
from tests.mesh.api.test_api_openai_client import make_client
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

QUESTION = [{"role": "user", "content": "How is the weather in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "$defs": {"city": {"type": "string"}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALLS = (
    "One moment.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)
NAMED = {"type": "function", "function": {"name": "get_time"}}
NATIVE = "{% if tools %}{{ tools }}<tool_call>{% endif %}"


@pytest.fixture
def backend(make_backend):
    return make_backend(answer=CALLS, context=4096)


async def ask(api, **options):
    async with make_client(api) as client:
        return await client.chat.completions.create(
            **{"model": MODEL, "messages": QUESTION, "temperature": 0, **options}
        )


async def test_calls_come_back_as_openai_has_them(api, backend):
    reply = await ask(api, tools=[WEATHER, TIME])
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "One moment.\n"
    first, second = choice.message.tool_calls
    assert (first.type, first.function.name) == ("function", "get_weather")
    assert json.loads(first.function.arguments) == {"city": "Rome"}
    assert second.function.name == "get_time" and first.id != second.id
    assert first.id.startswith("call_") and backend.requests[0].sampling.grammar is None


async def test_a_stream_gives_the_same_calls_name_first(api):
    async with make_client(api) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, tools=[WEATHER, TIME], stream=True
        )
        choices = [chunk.choices[0] async for chunk in stream]
    calls = {}
    for delta in (delta for choice in choices for delta in choice.delta.tool_calls or ()):
        if delta.index not in calls:
            assert delta.id and delta.type == "function" and delta.function.arguments == ""
            calls[delta.index] = [delta.function.name, ""]
        else:
            assert delta.function.name is None
            calls[delta.index][1] += delta.function.arguments
    assert "".join(choice.delta.content or "" for choice in choices) == "One moment.\n"
    assert calls == {0: ["get_weather", '{"city": "Rome"}'], 1: ["get_time", "{}"]}
    reasons = [choice.finish_reason for choice in choices]
    assert reasons[-1] == "tool_calls" and not any(reasons[:-1])


async def test_the_stream_helper_of_the_client_collects_the_calls(api):
    async with make_client(api) as client:
        manager = client.chat.completions.stream(
            model=MODEL, messages=QUESTION, tools=[WEATHER], temperature=0
        )
        async with manager as stream:
            final = await stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"


async def test_only_one_call_where_parallel_ones_are_not_wanted(api):
    reply = await ask(api, tools=[WEATHER, TIME], parallel_tool_calls=False)
    assert [c.function.name for c in reply.choices[0].message.tool_calls] == ["get_weather"]


async def test_a_template_without_tools_gets_them_in_words(api, backend):
    await ask(
        api, tools=[WEATHER], messages=[{"role": "system", "content": "Be brief."}, *QUESTION]
    )
    system, user = backend.chats[0]
    assert system.role == "system" and system.content.startswith("Be brief.\n\n")
    assert json.dumps(WEATHER["function"]) in system.content and user.content
    assert backend.prompts[0].tools == ()


async def test_a_template_with_tools_gets_them_itself_and_the_history_as_objects(api, backend):
    backend.template = NATIVE
    reply = await ask(api, tools=[WEATHER])
    called = reply.choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "Sunny."}
    await ask(
        api, tools=[WEATHER], messages=[*QUESTION, called.model_dump(exclude_none=True), result]
    )
    prompt = backend.prompts[-1]
    assert prompt.tools == (WEATHER,)
    _, assistant, tool = (message.to_template() for message in prompt.messages)
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    assert (tool["role"], tool["content"], tool["name"]) == ("tool", "Sunny.", "get_weather")


async def test_the_history_of_calls_is_told_in_words_where_the_template_has_none(api, backend):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": '},
    }
    history = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
    ]
    await ask(api, messages=[*QUESTION, *history])
    _, assistant, result = backend.chats[0]
    assert assistant.content.startswith("<tool_call>\n") and '{\\"city\\": ' in assistant.content
    assert (result.role, result.content) == ("user", "<tool_response>\nRain\n</tool_response>")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_time"}}]
)
async def test_a_forced_call_is_constrained(api, backend, choice):
    await ask(api, tools=[WEATHER, TIME], tool_choice=choice)
    grammar = backend.requests[0].sampling.grammar
    assert grammar.kind is GrammarKind.LARK and "get_time" in grammar.text
    assert ("get_weather" in grammar.text) == (choice == "required")
    if choice == "required":
        assert "#/$defs/tool0_city" in grammar.text and ")*" in grammar.text


async def test_no_tool_is_told_or_found_where_none_may_be_called(api, backend):
    reply = await ask(api, tools=[WEATHER], tool_choice="none")
    assert reply.choices[0].message.content == CALLS
    assert reply.choices[0].message.tool_calls is None
    assert [message.role for message in backend.chats[0]] == ["user"]


async def test_a_call_that_the_length_cuts_says_so(api):
    reply = await ask(api, tools=[WEATHER], max_tokens=60)
    (choice,) = reply.choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.name == "get_weather"


async def test_tools_and_a_schema_allow_a_call_or_the_value(api, backend):
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    await ask(api, tools=[WEATHER], response_format=wanted)
    grammar = backend.requests[0].sampling.grammar
    assert grammar.text.startswith("start: calls | answer\n")
    assert f"answer: {write_json_rule({'type': 'integer'})}\n" in grammar.text


async def test_a_schema_beside_tools_that_is_no_json_is_named(api):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(api, tools=[WEATHER], extra_body={"guided_json": "{"})
    assert caught.value.param == "guided_json"


def make_tool(name):
    return {"type": "function", "function": {"name": name}}


TOOL = {"role": "tool", "content": "x"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "<b>"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
            "tools[0].function.name",
        ),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [TIME, TIME]}, "tools"),
        ({"tools": [TIME] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [TIME],
                "tool_choice": {"type": "function", "function": {"name": "other"}},
            },
            "tool_choice",
        ),
        ({"messages": [*QUESTION, {**TOOL, "tool_call_id": "call_9"}]}, "messages[1].tool_call_id"),
        ({"messages": [*QUESTION, TOOL]}, "messages[1].tool_call_id"),
        (
            {"tools": [TIME], "guided_regex": "a+"},
            "guided_regex",
        ),
        ({"functions": [TIME["function"]]}, "functions"),
    ],
)
async def test_what_makes_no_sense_of_tools_is_named(api, backend, change, param):
    body = {"model": MODEL, "messages": QUESTION, **change}
    response = await api.post("/v1/chat/completions", json=body)
    check_error(response, 400, param=param)
    assert backend.requests == []


async def test_a_schema_of_a_tool_that_cannot_be_followed_is_refused_when_it_is_forced(
    api, backend
):
    backend.bad_grammar = 'Unimplemented keys: ["$ref"]'
    with pytest.raises(openai.BadRequestError) as raised:
        await ask(api, tools=[WEATHER], tool_choice="required")
    assert raised.value.body["param"] == "tools[0].function.parameters.properties.city.$ref"
    assert (await ask(api, tools=[WEATHER])).choices[0].message.tool_calls
