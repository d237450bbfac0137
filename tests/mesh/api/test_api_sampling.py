"""Parameters that change what a chat is asked and what is shown of its answer."""

from __future__ import annotations

import json

import pytest

from tests.mesh.api.test_api_streaming import read_events
from tests.support.http_checks import check_error
from tests.support.local_backend import ANSWER, MODEL, LocalBackend

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
TEXT = {"model": MODEL, "prompt": "An epoch", "temperature": 0}
PATH = "/v1/chat/completions"
THINKING = "{{ messages }}<think></think>"
THOUGHT = "<think>\nThe user greets.\n</think>\n\nHello! 🐟"


async def ask(api, path=PATH, **body):
    base = CHAT if path == PATH else TEXT
    response = await api.post(path, json={**base, **body})
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        return response.json()
    chunks = [json.loads(event) for event in read_events(response)[:-1]]
    return [chunk["choices"][0] for chunk in chunks]


def join(choices, field):
    return "".join(choice["delta"].get(field) or "" for choice in choices)


async def test_a_thinking_models_thoughts_stand_beside_its_answer(open_api, make_backend):
    api = await open_api(make_backend(template=THINKING, answer=THOUGHT))
    message = (await ask(api))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("The user greets.", "Hello! 🐟")
    choices = await ask(api, stream=True)
    assert join(choices, "reasoning_content") == "The user greets."
    assert join(choices, "content") == "Hello! 🐟"
    whole = (await ask(api, separate_reasoning=False))["choices"][0]["message"]
    assert whole["content"] == THOUGHT and "reasoning_content" not in whole


async def test_a_thought_that_the_prompt_opens_ends_with_its_tag(open_api, make_backend):
    backend = make_backend(template=THINKING, answer="Hm.\n</think>\n\nHi.")
    api = await open_api(backend)
    messages = [*CHAT["messages"], {"role": "assistant", "content": "<think>\nWell,"}]
    reply = await ask(api, messages=messages, continue_final_message=True)
    message = reply["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi.")


@pytest.mark.parametrize(
    ("prompt", "thought", "answer"),
    [("hi\n<think>\n", "Hm.", "Hi."), ("hi <think> or not", None, "Hm.\n</think>\n\nHi.")],
)
async def test_only_a_tag_at_the_very_end_of_the_prompt_opens_a_thought(
    open_api, make_backend, prompt, thought, answer
):
    class Opening(LocalBackend):
        async def encode_chat(self, model_id, chat):
            return await self.encode(model_id, prompt)

    backend = Opening(
        tokenizer=make_backend().tokenizer, template=THINKING, answer="Hm.\n</think>\n\nHi."
    )
    message = (await ask(await open_api(backend)))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (thought, answer)


async def test_a_model_without_tags_and_a_constrained_answer_are_left_alone(open_api, make_backend):
    api = await open_api(make_backend(answer=THOUGHT))
    message = (await ask(api))["choices"][0]["message"]
    assert message["content"] == THOUGHT and "reasoning_content" not in message
    api = await open_api(make_backend(template=THINKING, answer='{"a":"<think>"}'))
    reply = await ask(api, response_format={"type": "json_object"})
    assert reply["choices"][0]["message"]["content"] == '{"a":"<think>"}'


async def test_scores_of_a_stream_are_told_for_every_token_of_a_thought(open_api, make_backend):
    backend = make_backend(template=THINKING, answer=THOUGHT)
    api = await open_api(backend)
    choices = await ask(api, stream=True, logprobs=True)
    scored = [e for c in choices for e in (c["logprobs"] or {"content": []})["content"]]
    whole = (await ask(api, logprobs=True))["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in scored] == [entry["token"] for entry in whole]


async def test_earlier_thoughts_reach_the_template(open_api, make_backend):
    backend = make_backend()
    api = await open_api(backend)
    turn = {"role": "assistant", "content": "Hi.", "reasoning_content": "Greet."}
    await ask(api, messages=[*CHAT["messages"], turn, *CHAT["messages"]])
    assert backend.prompts[0].messages[1].to_template()["reasoning_content"] == "Greet."


async def test_a_final_message_is_gone_on_with_and_may_be_echoed(open_api, make_backend):
    backend = make_backend()
    api = await open_api(backend)
    messages = [*CHAT["messages"], {"role": "assistant", "content": "So: "}]
    body = {"messages": messages, "continue_final_message": True, "max_tokens": 2}
    first = (await ask(api, **body))["choices"][0]["message"]["content"]
    asked = backend.prompts[0]
    assert asked.continue_final_message and not asked.add_generation_prompt
    echoed = await ask(api, **body, echo=True)
    assert echoed["choices"][0]["message"]["content"] == f"So: {first}"
    assert join(await ask(api, **body, echo=True, stream=True), "content") == f"So: {first}"
    # Only what an assistant wrote is the beginning of its answer.
    assert (await ask(api, max_tokens=2, echo=True))["choices"][0]["message"]["content"] == first


async def test_the_opening_of_the_turn_may_be_left_out(open_api, make_backend):
    backend = make_backend()
    api = await open_api(backend)
    await ask(api, add_generation_prompt=False)
    await ask(api, add_generation_prompt=True)
    await ask(api)
    assert [prompt.add_generation_prompt for prompt in backend.prompts] == [False, True, True]


async def test_both_ends_of_a_prompt_at_once_are_refused(api):
    body = {**CHAT, "continue_final_message": True, "add_generation_prompt": True}
    check_error(await api.post(PATH, json=body), 400, param="continue_final_message")


@pytest.mark.parametrize("wanted", [None, True, False])
async def test_special_tokens_of_a_chat_are_text_unless_asked_otherwise(
    open_api, make_backend, wanted
):
    backend = make_backend()
    api = await open_api(backend)
    await ask(api, split_special_tokens=wanted)
    assert backend.prompts[0].split_special_tokens is (wanted is not False)


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_stop_that_ended_a_text_may_be_shown(api, path, is_stream):
    body = {"stop": ["commit", "phases: pro"], "include_stop_str_in_output": True}
    found = await ask(api, path, **body, stream=is_stream)
    if path == PATH:
        message = found if is_stream else found["choices"][0]["message"]
        text = join(message, "content") if is_stream else message["content"]
    else:
        text = "".join(c["text"] for c in (found if is_stream else found["choices"]))
    assert text == ANSWER[: ANSWER.index("pose,")]


@pytest.mark.parametrize("wanted", [0, 2])
async def test_prompt_logprobs_of_a_chat_are_in_vllms_form(api, backend, wanted):
    reply = await ask(api, n=2, max_tokens=3, prompt_logprobs=wanted)
    assert len(reply["choices"]) == 2
    assert reply["usage"]["completion_tokens"] == 6
    scores = reply["prompt_logprobs"]
    prompt = backend.requests[0].prompt_ids
    assert len(scores) == len(prompt) and scores[0] is None
    for token_id, told in zip(prompt[1:], scores[1:], strict=True):
        if token_id == 65:
            # The backend names it as a second alternative as well.
            continue
        own = told[str(token_id)]
        assert own["logprob"] == -0.25 and own["rank"] == (1 if wanted else None)
        assert len(told) == max(1, wanted)
    assert "prompt_logprobs" not in await ask(api, max_tokens=3)


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_prompt_logprobs_of_texts_stand_with_each_choice(api, backend, max_tokens):
    reply = await ask(
        api,
        "/v1/completions",
        prompt=["An epoch", "Every hoster commits"],
        n=2,
        max_tokens=max_tokens,
        prompt_logprobs=1,
    )
    told = [choice["prompt_logprobs"] for choice in reply["choices"]]
    assert told[0] == told[1] != told[2] == told[3]
    words = ["".join(next(iter(t.values()))["decoded_token"] for t in s[1:]) for s in told]
    assert words[0] == " epoch" and words[2].endswith(" commits")
    assert all(bool(choice["text"]) is bool(max_tokens) for choice in reply["choices"])


async def test_prompt_logprobs_of_a_stream_are_refused(api):
    body = {**CHAT, "prompt_logprobs": 1, "stream": True}
    check_error(await api.post(PATH, json=body), 400, param="stream")
    check_error(await api.post(PATH, json={**CHAT, "prompt_logprobs": 21}), 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_predict", 5),
        ("max_new_tokens", 5),
        ("top_a", 0.5),
        ("truncate_prompt_tokens", 5),
        ("bad_words", ["a"]),
    ],
)
async def test_parameters_that_change_an_answer_are_never_ignored(api, field, value):
    for path, base in ((PATH, CHAT), ("/v1/completions", TEXT)):
        check_error(await api.post(path, json={**base, field: value}), 400, param=field)


@pytest.mark.parametrize(
    ("field", "value"), [("enable_thinking", False), ("reasoning", {"effort": "high"})]
)
async def test_other_servers_names_for_thinking_are_never_ignored(api, field, value):
    """The template's own variables are in ``chat_template_kwargs``."""
    check_error(await api.post(PATH, json={**CHAT, field: value}), 400, param=field)


@pytest.mark.parametrize(
    ("field", "value"),
    [("function_call", {"name": "f", "arguments": "{}"}), ("audio", {"id": "a"}), ("prefix", True)],
)
async def test_what_a_message_carries_is_never_ignored(api, field, value):
    turn = {"role": "assistant", "content": "x", field: value}
    body = {**CHAT, "messages": [*CHAT["messages"], turn]}
    check_error(await api.post(PATH, json=body), 400, param=f"messages[1].{field}")
    assert (await api.post(PATH, json={**body, "messages": [{**turn, field: None}]})).is_success
