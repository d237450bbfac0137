"""Responses are kept where ``store`` is true, for their own key, within bounds."""

from __future__ import annotations

import openai
import pytest

from mesh.api.keys_file import create_key
from mesh.api.limits import KEEP_RESPONSES_S
from mesh.api.problems import Problem
from mesh.api.response_store import ResponseStore
from tests.mesh.api.test_api_openai_client import make_client
from tests.mesh.api.test_api_responses import CALL, QUESTION, WEATHER, ask, collect
from tests.support.http_checks import check_error
from tests.support.local_backend import ANSWER, MODEL


async def test_a_response_is_kept_only_where_it_is_asked_for(api):
    for store in (None, False):
        reply = await ask(api, store=store)
        assert reply.store is False
        error = check_error(await api.get(f"/v1/responses/{reply.id}"), 404, param="response_id")
        assert error["code"] == "response_not_found"
    kept = await ask(api, store=True)
    assert kept.store is True
    async with make_client(api) as client:
        again = await client.responses.retrieve(kept.id)
    assert again == kept
    assert again.output_text == ANSWER


async def test_a_later_request_goes_on_from_a_kept_response(api, backend):
    first = await ask(api, instructions="Be brief.", store=True)
    second = await ask(api, input="And then?", previous_response_id=first.id, store=True)
    assert second.previous_response_id == first.id
    # Instructions are of one request alone, as OpenAI's.
    turns = [(turn.role, turn.content) for turn in backend.chats[1]]
    assert turns == [("user", QUESTION), ("assistant", ANSWER), ("user", "And then?")]
    await ask(api, input="Why?", previous_response_id=second.id)
    assert [turn.role for turn in backend.chats[2]] == ["user", "assistant"] * 2 + ["user"]
    # The first is as it was: two requests may go on from one response.
    await ask(api, input="Or else?", previous_response_id=first.id)
    assert len(backend.chats[3]) == 3


async def test_the_result_of_a_call_follows_the_kept_call(open_api, make_backend):
    backend = make_backend(answer=CALL, context=4096)
    api = await open_api(backend)
    first = await ask(api, tools=[WEATHER], store=True)
    (call,) = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    await ask(api, tools=[WEATHER], previous_response_id=first.id, input=[result])
    assert [turn.role for turn in backend.chats[1]][1:3] == ["user", "assistant"]
    assert "Sunny." in backend.chats[1][3].content


async def test_a_streamed_response_is_kept_when_its_end_is_told(api):
    events = await collect(api, store=True)
    final = events[-1].response
    async with make_client(api) as client:
        assert (await client.responses.retrieve(final.id)).output_text == ANSWER


async def test_a_kept_response_is_forgotten_when_asked(api):
    kept = await ask(api, store=True)
    async with make_client(api) as client:
        await client.responses.delete(kept.id)
        for call in (client.responses.retrieve, client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(kept.id)


async def test_a_response_that_is_not_kept_cannot_be_gone_on_from(api, backend):
    body = {"model": MODEL, "input": QUESTION, "previous_response_id": "resp_1"}
    error = check_error(await api.post("/v1/responses", json=body), 404)
    assert (error["param"], error["code"]) == ("previous_response_id", "response_not_found")
    assert backend.requests == []


async def test_another_key_finds_no_response_that_is_not_its_own(open_api, backend, tmp_path):
    keys = tmp_path / "keys.txt"
    own, other = (create_key(keys, name, now_s=1) for name in ("own", "other"))
    api = await open_api(backend, keys_file=keys)
    headers = [{"Authorization": f"Bearer {key}"} for key in (own, other)]
    body = {"model": MODEL, "input": QUESTION, "store": True}
    kept = (await api.post("/v1/responses", json=body, headers=headers[0])).json()
    path = f"/v1/responses/{kept['id']}"
    for call in (api.get, api.delete):
        check_error(await call(path, headers=headers[1]), 404)
    body = {**body, "previous_response_id": kept["id"]}
    check_error(await api.post("/v1/responses", json=body, headers=headers[1]), 404)
    assert (await api.get(path, headers=headers[0])).status_code == 200
    check_error(await api.get(path), 401)


def keep(store: ResponseStore, caller: str, name: str, *, now_s: float = 0, text: str = "") -> None:
    store.keep(caller, {"id": name, "text": text}, (), now_s=now_s)


def find(store: ResponseStore, caller: str, names: str, *, now_s: float = 0) -> str:
    """Return the names of those that are kept."""
    found = ""
    for name in names:
        try:
            store.find(caller, name, param="id", now_s=now_s)
        except Problem:
            continue
        found += name
    return found


def test_the_oldest_go_first_beyond_the_number_of_all():
    store = ResponseStore(max_responses=3)
    for name in "abcde":
        keep(store, "alice", name)
    assert find(store, "alice", "abcde") == "cde"


def test_a_key_pushes_out_its_own_responses_only():
    store = ResponseStore(max_of_key=2)
    keep(store, "bob", "z")
    for name in "abcd":
        keep(store, "alice", name)
    assert find(store, "alice", "abcd") == "cd"
    assert find(store, "bob", "z") == "z"


def test_a_key_pushes_out_its_own_responses_only_by_their_bytes_too():
    store = ResponseStore(max_bytes_of_key=1000)
    keep(store, "bob", "z")
    for name in "abc":
        keep(store, "alice", name, text="x" * 400)
    assert find(store, "alice", "abc") == "bc"
    assert find(store, "bob", "z") == "z"


def test_the_oldest_go_beyond_the_bytes_and_one_too_large_is_not_kept():
    store = ResponseStore(max_bytes=1000)
    for name in "abc":
        keep(store, "alice", name, text="x" * 400)
    assert find(store, "alice", "abc") == "bc"
    keep(store, "alice", "d", text="x" * 2000)
    assert find(store, "alice", "abcd") == ""
    keep(store, "alice", "e", text="x" * 400)
    assert find(store, "alice", "e") == "e"


def test_a_response_is_kept_for_its_time():
    store = ResponseStore()
    keep(store, "alice", "a", now_s=1)
    assert find(store, "alice", "a", now_s=KEEP_RESPONSES_S) == "a"
    assert find(store, "alice", "a", now_s=KEEP_RESPONSES_S + 1) == ""
