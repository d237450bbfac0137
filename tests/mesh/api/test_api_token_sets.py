"""``allowed_token_ids`` and ``suppress_tokens``, from the request to real hosters."""

from __future__ import annotations

import pytest

from tests.mesh.api.test_api_mesh_backend import MODEL as REAL_MODEL
from tests.mesh.api.test_api_mesh_backend import open_swarm, swarm  # noqa: F401
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

PATH = "/v1/chat/completions"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SET = {"suppress_tokens": [7, 8, 20]}


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"allowed_token_ids": [9, 8, 7, 3]}, "<[3,7-9]>"),
        (SET, "<[^7-8,20]>"),
        ({"allowed_token_ids": [9, 8, 7], **SET}, "<[9]>"),
    ],
)
async def test_a_set_travels_as_a_grammar(api, backend, asked, written):
    for path, body in ((PATH, CHAT), ("/v1/completions", {"model": MODEL, "prompt": "hi"})):
        assert (await api.post(path, json={**body, **asked})).status_code == 200
        assert backend.requests[-1].sampling.grammar.text == f"start: {written} start\n"
    for neutral in ([], None):
        await api.post(PATH, json={**CHAT, "suppress_tokens": neutral})
        assert backend.requests[-1].sampling.grammar is None


async def test_thoughts_and_free_calls_stay_possible_and_forced_ones_do_not(open_api, make_backend):
    backend = make_backend(template="<think></think>", answer="<think>Hm.</think>Hi.", context=4096)
    api = await open_api(backend)
    reply = await api.post(PATH, json={**CHAT, **SET, "tools": [TOOL]})
    message = reply.json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi.")
    body = {**CHAT, **SET, "tools": [TOOL], "tool_choice": "required"}
    check_error(await api.post(PATH, json=body), 400, param="suppress_tokens")


@pytest.mark.parametrize("ranges", [((0, 8),), ((0, 4), (4, 8))])
async def test_real_hosters_choose_within_the_set(open_swarm, swarm, ranges):  # noqa: F811
    client, http = await open_swarm(*ranges)
    letters = {**ask_real(), "temperature": 1.5, "seed": 3, "max_tokens": 40, "logprobs": True}
    async with client:
        free = await client.chat.completions.create(**letters)
        seen = {token.token for token in free.choices[0].logprobs.content}
        told = await http.post("/tokenize", json={"model": REAL_MODEL, "prompt": "".join(seen)})
        named = [*dict.fromkeys(told.json()["tokens"])]
        only = await client.chat.completions.create(
            **letters, extra_body={"allowed_token_ids": named[:6]}
        )
        never = await client.chat.completions.create(
            **letters, extra_body={"suppress_tokens": named}
        )
    texts = {
        (await http.post("/detokenize", json={"tokens": [token_id]})).json()["prompt"]
        for token_id in named[:6]
    }
    # The end is not among them: only the length ends the answer.
    assert only.choices[0].finish_reason == "length" and only.usage.completion_tokens == 40
    assert {token.token for token in only.choices[0].logprobs.content} <= texts
    assert not {token.token for token in never.choices[0].logprobs.content} & texts


def ask_real():
    return {"model": REAL_MODEL, "messages": [{"role": "user", "content": "Tell me something."}]}
