"""``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

import pytest

from tests.support.http_checks import check_error
from tests.support.local_backend import CONTEXT, END, EOS, MODEL

MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def send(api, path, **body):
    response = await api.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_prompt_becomes_tokens_and_comes_back(api, tokenizer):
    text = "Größe 🐟 and more"
    reply = await send(api, "/tokenize", prompt=text)
    assert reply["tokens"] == tokenizer.encode(text).ids
    assert (reply["count"], reply["max_model_len"]) == (len(reply["tokens"]), CONTEXT)
    assert reply["token_strs"] is None
    assert await send(api, "/detokenize", tokens=reply["tokens"]) == {"prompt": text}


async def test_the_only_model_need_not_be_named(api, tokenizer):
    response = await api.post("/tokenize", json={"prompt": "Hi"})
    assert response.json()["tokens"] == tokenizer.encode("Hi").ids
    response = await api.post("/detokenize", json={"tokens": []})
    assert response.json() == {"prompt": ""}


async def test_special_tokens_have_their_names(api):
    assert await send(api, "/detokenize", tokens=[END]) == {"prompt": EOS}


async def test_token_strings_are_told_on_request(api):
    reply = await send(api, "/tokenize", prompt="Every hoster", return_token_strs=True)
    assert "".join(reply["token_strs"]) == "Every hoster"
    assert len(reply["token_strs"]) == reply["count"]


async def test_messages_are_counted_as_a_chat_counts_them(api, backend):
    reply = await send(api, "/tokenize", messages=MESSAGES, tools=[TOOL])
    chat = await api.post(
        "/v1/chat/completions",
        json={"model": MODEL, "messages": MESSAGES, "tools": [TOOL], "max_tokens": 1},
    )
    assert reply["count"] == chat.json()["usage"]["prompt_tokens"]
    assert backend.prompts[0] == backend.prompts[1]
    await send(api, "/tokenize", messages=MESSAGES, add_generation_prompt=False)
    assert [prompt.add_generation_prompt for prompt in backend.prompts] == [True, True, False]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [100_000]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(api, path, body, param):
    response = await api.post(path, json={"model": MODEL, **body})
    check_error(response, 400, param=param)


async def test_half_a_character_is_refused(api):
    body = b'{"prompt": "\\ud800"}'
    headers = {"Content-Type": "application/json"}
    check_error(await api.post("/tokenize", content=body, headers=headers), 400, param="prompt")


async def test_an_unknown_model_is_404(api):
    response = await api.post("/tokenize", json={"model": "gpt-4", "prompt": "a"})
    check_error(response, 404, param="model")
