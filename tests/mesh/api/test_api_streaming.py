"""Server-sent events, read byte by byte."""

from __future__ import annotations

import json

import httpx

from mesh.api.errors import GenerationFailed
from mesh.errors import NoRoute
from tests.support.local_backend import ANSWER, MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def read_events(response: httpx.Response) -> list[str]:
    """Return every event's data; anything but single data lines and comments is a failure."""
    events = response.text.split("\n\n")
    assert events.pop() == ""
    lines = [event for event in events if not event.startswith(": ")]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines), lines
    return [line.removeprefix("data: ") for line in lines]


async def stream(api, path="/v1/chat/completions", **body) -> httpx.Response:
    return await api.post(path, json={"stream": True, **body})


async def test_a_stream_is_role_text_finish_usage_done(api):
    response = await stream(api, **CHAT, stream_options={"include_usage": True})
    assert response.status_code == 200
    *events, last = read_events(response)
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    *parts, usage = chunks
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0
    assert all(part["usage"] is None for part in parts)
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    reasons = [part["choices"][0]["finish_reason"] for part in parts]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER


async def test_without_being_asked_there_is_no_usage(api):
    events = read_events(await stream(api, **CHAT))
    assert all("usage" not in json.loads(event) for event in events[:-1])


async def test_the_headers_keep_proxies_from_buffering(api):
    headers = (await stream(api, **CHAT)).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-mesh-route"] == "12D3KooWFirst:0-3,12D3KooWSecond:3-6"


async def test_a_quiet_stream_sends_keepalive_comments(open_api, make_backend):
    api = await open_api(make_backend(delay_s=0.05), limits={"sse_comment_s": 0.02})
    response = await stream(api, **CHAT, max_tokens=4)
    assert ": keepalive\n\n" in response.text
    read_events(response)


async def test_an_error_in_mid_stream_is_an_event_and_then_the_end(open_api, make_backend):
    failure = GenerationFailed("the last route was lost")
    api = await open_api(make_backend(failure=failure, fail_after=2))
    events = read_events(await stream(api, **CHAT))
    assert json.loads(events[-1])["error"] == {
        "message": "the last route was lost",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }


async def test_a_defect_in_mid_stream_says_nothing_of_its_cause(open_api, make_backend):
    api = await open_api(make_backend(failure=RuntimeError("prompt: my secret"), fail_after=2))
    response = await stream(api, **CHAT)
    assert "secret" not in response.text
    assert json.loads(read_events(response)[-1])["error"]["type"] == "server_error"


async def test_a_refusal_before_the_first_token_has_its_own_status(open_api, make_backend):
    backend = make_backend(failure=NoRoute(((2, 4), (5, 6))))
    api = await open_api(backend)
    response = await stream(api, **CHAT)
    assert response.status_code == 503
    assert "2:4, 5:6" in response.json()["error"]["message"]
    assert "retry-after" in response.headers
    assert backend.running == 0


async def test_the_route_and_a_reroute_are_told(open_api, make_backend):
    api = await open_api(make_backend(reroute_after=3))
    events = read_events(await stream(api, **CHAT))
    traces = [json.loads(event).get("mesh") for event in events[:-1]]
    routes = [trace["route"] for trace in traces if trace]
    assert [hop["blocks"] for hop in routes[0]] == [[0, 3], [3, 6]]
    assert [hop["blocks"] for hop in routes[-1]] == [[0, 6]]
    assert traces[-1]["reroutes"] == 1 and traces[-1]["tokens_per_second"] > 0


async def test_choices_that_go_different_ways_are_not_reroutes(open_api, make_backend):
    backend = make_backend(alternates_routes=True)
    api = await open_api(backend)
    reply = (await api.post("/v1/chat/completions", json={**CHAT, "n": 2, "max_tokens": 3})).json()
    assert reply["mesh"]["reroutes"] == 0
    assert len(reply["mesh"]["route"]) in (1, 2)


async def test_a_stop_sequence_is_never_shown_and_frees_the_backend(open_api, make_backend):
    backend = make_backend(is_endless=True)
    api = await open_api(backend)
    events = read_events(await stream(api, **CHAT, stop=["reveal, sc", "no such text"]))
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    text = "".join(chunk["delta"].get("content", "") for chunk in chunks)
    assert text == "An epoch has four phases: propose, commit, "
    assert chunks[-1]["finish_reason"] == "stop"
    assert backend.running == 0


async def test_a_character_of_several_tokens_arrives_whole(api):
    events = read_events(await stream(api, **CHAT))
    texts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert any("🐟" in text for text in texts)
    assert "\ufffd" not in "".join(texts)


async def test_legacy_streams_echo_the_prompt_first(api):
    response = await stream(
        api,
        "/v1/completions",
        model=MODEL,
        prompt="Once ",
        echo=True,
        max_tokens=3,
        temperature=0,
        stream_options={"include_usage": True},
    )
    *events, done = read_events(response)
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]" and chunks[-1]["choices"] == []
    texts = [chunk["choices"][0]["text"] for chunk in chunks[:-1]]
    assert texts[0] == "Once " and "".join(texts) == "Once An epoch has"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


async def test_several_prompts_and_choices_have_their_own_index(api):
    response = await stream(
        api, "/v1/completions", model=MODEL, prompt=["a", "b"], n=2, max_tokens=2
    )
    chunks = [json.loads(event) for event in read_events(response)[:-1]]
    finished = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(finished) == [0, 1, 2, 3]
