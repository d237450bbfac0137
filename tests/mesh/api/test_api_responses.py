"""``/v1/responses`` through the official client."""

from __future__ import annotations

import json

import openai
import pytest

from mesh.inference.grammar import GrammarKind
from tests.mesh.api.test_api_openai_client import make_client
from tests.support.http_checks import check_error
from tests.support.local_backend import ANSWER, MODEL

QUESTION = "How is the weather in Rome?"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
THOUGHT = "<think>\nThe user greets.\n</think>\n\nHello! 🐟"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture
def calling(make_backend):
    return make_backend(answer=f"Wait.\n{CALL}", context=4096)


async def ask(api, **options):
    async with make_client(api) as client:
        return await client.responses.create(
            **{"model": MODEL, "input": QUESTION, "temperature": 0, **options}
        )


async def collect(api, **options):
    async with make_client(api) as client:
        stream = await client.responses.create(
            **{"model": MODEL, "input": QUESTION, "temperature": 0, "stream": True, **options}
        )
        return [event async for event in stream]


async def test_an_answer_is_one_message(api, backend):
    reply = await ask(api, instructions="Be brief.", metadata={"a": "b"})
    assert (reply.object, reply.status, reply.output_text) == ("response", "completed", ANSWER)
    (message,) = reply.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert [m.role for m in backend.chats[0]] == ["system", "user"]
    assert reply.metadata == {"a": "b"}


async def test_an_answer_that_the_length_cuts_is_incomplete(api):
    reply = await ask(api, max_output_tokens=3)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.usage.output_tokens == 3


async def test_a_stream_has_openais_events_in_order(api):
    events = await collect(api)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == ANSWER == events[-4].text


async def test_calls_are_items_and_their_results_come_back(open_api, calling):
    api = await open_api(calling)
    reply = await ask(api, tools=[WEATHER])
    message, call = reply.output
    assert message.content[0].text == "Wait.\n"
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == {"city": "Rome"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    history = [{"role": "user", "content": QUESTION}, call.model_dump(), result]
    await ask(api, tools=[WEATHER], input=history)
    _, user, assistant, told = calling.chats[1]
    assert user.content == QUESTION and "get_weather" in assistant.content
    assert "Sunny." in told.content


async def test_a_streamed_call_has_its_events(open_api, calling):
    events = await collect(await open_api(calling), tools=[WEATHER])
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"city": "Rome"}
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert json.loads(done.arguments) == {"city": "Rome"}
    assert [item.type for item in events[-1].response.output] == ["message", "function_call"]


@pytest.fixture
def thinking(make_backend):
    template = "{{ messages }}<think></think><tool_call>"
    return make_backend(template=template, answer=THOUGHT, context=4096)


async def test_a_thought_is_an_item_before_the_message(open_api, thinking):
    api = await open_api(thinking)
    reply = await ask(api)
    thought, message = reply.output
    assert (thought.type, thought.status, thought.summary) == ("reasoning", "completed", [])
    assert [(part.type, part.text) for part in thought.content] == [
        ("reasoning_text", "The user greets.")
    ]
    assert reply.output_text == message.content[0].text == "Hello! 🐟"
    assert 0 < reply.usage.output_tokens_details.reasoning_tokens < reply.usage.output_tokens
    history = [
        {"role": "user", "content": QUESTION},
        *[item.model_dump(exclude_none=True) for item in reply.output],
        {"role": "user", "content": "And then?"},
    ]
    await ask(api, input=history)
    assert [(turn.role, turn.reasoning) for turn in thinking.chats[1]] == [
        ("user", None),
        ("assistant", "The user greets."),
        ("user", None),
    ]


async def test_a_streamed_thought_has_its_events(open_api, thinking):
    events = await collect(await open_api(thinking))
    kinds = [event.type for event in events]
    ends = [kind for kind in kinds if not kind.endswith(".delta")]
    assert ends[2:6] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.done",
        "response.content_part.done",
    ]
    assert ends[6:9] == [
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
    ]
    told = [event for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(event.delta for event in told) == "The user greets."
    (done,) = (event for event in events if event.type == "response.reasoning_text.done")
    assert done.text == "The user greets." and done.item_id == told[0].item_id
    assert {event.output_index for event in told} == {0}
    added = [event for event in events if event.type == "response.content_part.added"]
    assert [(event.part.type, event.part.text) for event in added] == [
        ("reasoning_text", ""),
        ("output_text", ""),
    ]
    items = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.type for item in items] == ["reasoning", "message"]


async def test_a_thought_that_the_length_cuts_is_incomplete(open_api, thinking):
    reply = await ask(await open_api(thinking), max_output_tokens=12)
    (thought,) = reply.output
    assert (reply.status, thought.status) == ("incomplete", "incomplete")
    assert reply.usage.output_tokens_details.reasoning_tokens == 12


async def test_a_thought_goes_back_with_the_calls_that_it_led_to(open_api, make_backend):
    template = "{{ messages }}<think></think><tool_call>"
    backend = make_backend(template=template, answer=f"<think>Hm.</think>{CALL}", context=4096)
    api = await open_api(backend)
    reply = await ask(api, tools=[WEATHER])
    thought, call = reply.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    given = [item.model_dump(exclude_none=True) for item in (thought, call)]
    # The second thought led to nothing.
    await ask(api, tools=[WEATHER], input=[*given, result, thought.model_dump(exclude_none=True)])
    turns = [turn for turn in backend.chats[1] if turn.role != "system"]
    assert turns[0].reasoning == "Hm." and len(turns) == 2


async def test_the_client_s_own_stream_gathers_thought_and_message(open_api, thinking):
    async with make_client(await open_api(thinking)) as client:
        async with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
            async for _ in stream:
                pass
            reply = await stream.get_final_response()
    assert [item.type for item in reply.output] == ["reasoning", "message"]


async def test_a_form_and_a_forced_call_become_grammars(open_api, calling):
    api = await open_api(calling)
    wanted = {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}
    await ask(api, text={"format": wanted})
    assert calling.requests[0].sampling.grammar.text == '{"type": "integer"}'
    await ask(api, tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"})
    assert calling.requests[1].sampling.grammar.kind is GrammarKind.LARK


async def test_an_input_of_parts_is_read(api, backend):
    parts = [{"type": "input_text", "text": "Hello "}, {"type": "input_text", "text": "you"}]
    await ask(api, input=[{"type": "message", "role": "user", "content": parts}])
    assert backend.chats[0][0].content == "Hello you"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": ""}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"store": "yes"}, "store"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text"),
    ],
)
async def test_what_is_not_supported_is_named(api, backend, change, param):
    response = await api.post("/v1/responses", json={"model": MODEL, "input": QUESTION, **change})
    assert check_error(response, 400)["param"].startswith(param)
    assert backend.requests == []


async def test_an_unknown_model_is_404(api):
    with pytest.raises(openai.NotFoundError):
        await ask(api, model="gpt-4")
