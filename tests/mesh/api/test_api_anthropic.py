"""``/v1/messages`` in Anthropic's shape, over plain HTTP."""

from __future__ import annotations

import json

import pytest

from mesh.api.errors import GenerationFailed
from mesh.api.keys_file import create_key
from mesh.inference.grammar import GrammarKind
from tests.support.local_backend import ANSWER, MODEL

QUESTION = [{"role": "user", "content": "How is the weather in Rome?"}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def make_body(**changes):
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 400, "temperature": 0, **changes}
    return {name: value for name, value in body.items() if value is not ...}


async def ask(api, **changes):
    response = await api.post(
        "/v1/messages", json=make_body(**changes), headers={"anthropic-version": "2023-06-01"}
    )
    assert response.status_code == 200, response.text
    return response.json()


async def collect(api, **changes):
    """Return the events of a stream; each is named as its data say."""
    events = []
    async with api.stream("POST", "/v1/messages", json=make_body(stream=True, **changes)) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = (await reply.aread()).decode()
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def check_anthropic_error(response, status, kind):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error"} and body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == kind
    return body["error"]["message"]


@pytest.fixture
def calling(make_backend):
    return make_backend(answer=f"Wait.\n{CALL}", context=4096)


async def test_an_answer_is_one_message(api, backend):
    reply = await ask(api, system="Be brief.", stop_sequences=["never"], top_k=5, top_p=0.5)
    assert (reply["type"], reply["role"], reply["model"]) == ("message", "assistant", MODEL)
    assert reply["id"].startswith("msg_")
    assert reply["content"] == [{"type": "text", "text": ANSWER}]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("end_turn", None)
    assert reply["usage"]["input_tokens"] == len(backend.requests[0].prompt_ids)
    assert reply["usage"]["output_tokens"] > 10
    assert [(m.role, m.content) for m in backend.chats[0]] == [
        ("system", "Be brief."),
        ("user", QUESTION[0]["content"]),
    ]
    sampling = backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 5, 0.5)


async def test_the_end_says_why(api):
    cut = await ask(api, max_tokens=3)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
    stopped = await ask(api, stop_sequences=["score", "propose"])
    assert stopped["content"][0]["text"] == ANSWER.partition("propose")[0]
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "propose")


async def test_a_stream_has_anthropics_events_in_order(api):
    events = await collect(api)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    begun = events[0]["message"]
    assert (begun["content"], begun["stop_reason"]) == ([], None)
    assert begun["usage"]["input_tokens"] > 0
    assert "".join(event["delta"]["text"] for event in events[2:-3]) == ANSWER
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] > 10


async def test_tools_are_used_and_their_results_come_back(open_api, calling):
    api = await open_api(calling)
    reply = await ask(api, tools=[WEATHER])
    text, use = reply["content"]
    assert text == {"type": "text", "text": "Wait.\n"}
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "get_weather", {"city": "Rome"})
    assert reply["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "Sunny."}
    history = [
        *QUESTION,
        {"role": "assistant", "content": reply["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    await ask(api, tools=[WEATHER], messages=history)
    _, user, assistant, told, last = calling.chats[1]
    assert user.content == QUESTION[0]["content"] and "get_weather" in assistant.content
    assert "Sunny." in told.content and last.content == "And now?"


async def test_a_streamed_use_has_its_events(open_api, calling):
    events = await collect(await open_api(calling), tools=[WEATHER])
    starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == ["text", "tool_use"]
    assert starts[1]["input"] == {} and starts[1]["id"].startswith("toolu_")
    deltas = [e for e in events if e["type"] == "content_block_delta" and e["index"] == 1]
    assert json.loads("".join(e["delta"]["partial_json"] for e in deltas)) == {"city": "Rome"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_arguments_that_are_no_json_are_passed_on_as_text(open_api, make_backend):
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": Rome}}\n</tool_call>'
    api = await open_api(make_backend(answer=broken, context=4096))
    reply = await ask(api, tools=[WEATHER])
    assert reply["content"][0]["input"] == {"INVALID_JSON": '{"city": Rome}'}


async def test_choices_of_tools_become_those_of_chat(open_api, calling):
    api = await open_api(calling)
    await ask(api, tools=[WEATHER], tool_choice={"type": "none"})
    assert "get_weather" not in calling.chats[0][0].content
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        await ask(api, tools=[WEATHER], tool_choice=choice)
        assert calling.requests[-1].sampling.grammar.kind is GrammarKind.LARK
    once = {"type": "auto", "disable_parallel_tool_use": True}
    assert (await ask(api, tools=[WEATHER], tool_choice=once))["stop_reason"] == "tool_use"
    schema = {"type": "integer"}
    await ask(api, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(calling.requests[-1].sampling.grammar.text) == schema


async def test_turns_of_one_role_are_joined_and_errors_of_tools_told(open_api, calling):
    api = await open_api(calling)
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "No.", "is_error": True}
    history = [
        {"role": "user", "content": "One."},
        {"role": "user", "content": [{"type": "text", "text": "Two."}]},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    await ask(api, messages=history)
    assert [m.role for m in calling.chats[0]] == ["user", "assistant", "user"]
    assert calling.chats[0][0].content == "One.\nTwo."
    assert "Error: No." in calling.chats[0][2].content


async def test_tokens_are_counted_without_an_answer(api, backend):
    body = {"model": MODEL, "messages": QUESTION, "system": "Be brief."}
    response = await api.post("/v1/messages/count_tokens", json=body)
    assert backend.requests == []
    reply = await ask(api, system="Be brief.")
    assert response.json() == {"input_tokens": reply["usage"]["input_tokens"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"messages": ...}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "It is"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"effort": "high"}}, "output_config.effort"),
        ({"stop_sequences": ["x"] * 9}, "stop_sequences"),
        ({"max_tokens": 100_000}, "max_tokens"),
    ],
)
async def test_what_is_not_supported_is_named(api, backend, change, named):
    response = await api.post("/v1/messages", json=make_body(**change))
    assert named in check_anthropic_error(response, 400, "invalid_request_error")
    assert backend.requests == []


async def test_results_and_uses_in_the_wrong_turn_are_refused(api):
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1"}
    for messages in (
        [{"role": "user", "content": [use]}],
        [{"role": "user", "content": [result]}],
        [*QUESTION, {"role": "assistant", "content": [result]}, *QUESTION],
    ):
        response = await api.post("/v1/messages", json=make_body(messages=messages))
        check_anthropic_error(response, 400, "invalid_request_error")


async def test_refusals_of_every_layer_have_anthropics_shape(open_api, backend, tmp_path):
    keys = tmp_path / "private" / "keys.jsonl"
    key = create_key(keys, "alice", now_s=1_800_000_000)
    api = await open_api(backend, keys_file=keys, limits={"max_body_bytes": 1000})
    check_anthropic_error(
        await api.post("/v1/messages", json=make_body()), 401, "authentication_error"
    )
    given = {"x-api-key": key}
    large = make_body(system="x" * 1000)
    response = await api.post("/v1/messages", json=large, headers=given)
    check_anthropic_error(response, 413, "request_too_large")
    response = await api.post("/v1/messages", json=make_body(model="claude"), headers=given)
    check_anthropic_error(response, 404, "not_found_error")
    response = await api.post("/v1/messages", content="{", headers=given)
    check_anthropic_error(response, 415, "invalid_request_error")
    response = await api.post("/v1/messages", json=make_body(), headers=given)
    assert response.status_code == 200


async def test_a_stream_that_fails_ends_with_an_error_event(open_api, make_backend):
    api = await open_api(make_backend(failure=GenerationFailed("lost"), fail_after=4))
    events = await collect(api)
    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "lost"}}
    assert "message_stop" not in [event["type"] for event in events]
