"""Ollama's paths over plain HTTP."""

from __future__ import annotations

import json

import pytest

from mesh.api.errors import GenerationFailed
from mesh.api.keys_file import create_key
from mesh.inference.grammar import GrammarKind
from tests.support.local_backend import ANSWER, MODEL

QUESTION = [{"role": "user", "content": "How is the weather in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
CALLED = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
TAGGED = "{{ messages }}<think></think>"
SWITCHED = "{% if enable_thinking %}{{ messages }}<think></think>{% endif %}"
THOUGHT = "<think>\nThe user greets.\n</think>\n\nHello! 🐟"
PATHS = ["/api/chat", "/api/generate"]


def make_body(path, *, options=None, **changes):
    asked = {"messages": QUESTION} if path == "/api/chat" else {"prompt": "Hello"}
    return {"model": MODEL, **asked, "options": {"temperature": 0, **(options or {})}, **changes}


def read_text(line):
    return line["response"] if "response" in line else line["message"]["content"]


async def ask(api, path, **changes):
    response = await api.post(path, json={**make_body(path, **changes), "stream": False})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def collect(api, path, **changes):
    async with api.stream("POST", path, json=make_body(path, **changes)) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("application/x-ndjson")
        return [json.loads(line) async for line in response.aiter_lines()]


def check_ollama_error(response, status):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return response.json()["error"]


@pytest.fixture
def calling(make_backend):
    return make_backend(answer=f"Wait.\n{CALL}", context=4096)


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_comes_in_lines_unless_one_is_wanted(api, path):
    lines = await collect(api, path)
    assert "".join(map(read_text, lines)) == ANSWER
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {MODEL}
    whole = await ask(api, path)
    assert read_text(whole) == ANSWER and whole["done"] is True
    for last in (lines[-1], whole):
        assert last["done_reason"] == "stop"
        assert last["prompt_eval_count"] > 0 and last["eval_count"] > 10
        spent = last["prompt_eval_duration"] + last["eval_duration"]
        assert 0 < spent <= last["total_duration"] + 1


@pytest.mark.parametrize("path", PATHS)
async def test_options_are_those_of_sampling(api, backend, path):
    options = {
        "num_predict": 3,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.25,
        "min_p": 0.125,
        "seed": 11,
        "repeat_penalty": 1.5,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "num_ctx": 2048,
    }
    cut = await ask(api, path, options=options)
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 3)
    sampling = backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.25)
    assert (sampling.min_p, sampling.seed, sampling.repetition_penalty) == (0.125, 11, 1.5)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -0.5)
    stopped = await ask(api, path, options={"stop": ["propose"], "num_predict": -1})
    assert read_text(stopped) == ANSWER.partition("propose")[0]


@pytest.mark.parametrize("path", PATHS)
async def test_without_options_ollamas_defaults_count(api, backend, path):
    body = make_body(path, stream=False)
    del body["options"]
    await api.post(path, json=body)
    sampling = backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 40, 0.9)


@pytest.mark.parametrize("path", PATHS)
async def test_a_format_becomes_a_grammar(api, backend, path):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for wanted, expected in (("json", {"type": "object"}), (schema, schema)):
        await ask(api, path, format=wanted)
        assert json.loads(backend.requests[-1].sampling.grammar.text) == expected
    assert backend.requests[-1].sampling.grammar.kind is GrammarKind.JSON_SCHEMA
    await ask(api, path, format="")
    assert backend.requests[-1].sampling.grammar is None


async def test_a_grammar_that_cannot_be_is_refused_by_its_field(open_api, make_backend):
    api = await open_api(make_backend(bad_grammar="no"))
    response = await api.post("/api/chat", json=make_body("/api/chat", format={"type": "x"}))
    assert check_ollama_error(response, 400) == "'format': no"


async def test_calls_come_whole_and_their_results_go_back(open_api, calling):
    api = await open_api(calling)
    reply = await ask(api, "/api/chat", tools=[WEATHER])
    assert reply["message"] == {"role": "assistant", "content": "Wait.\n", "tool_calls": [CALLED]}
    lines = await collect(api, "/api/chat", tools=[WEATHER])
    assert [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]] == [
        [CALLED]
    ]
    history = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALLED, CALLED]},
        {"role": "tool", "content": "Sunny.", "tool_name": "get_weather"},
        {"role": "tool", "content": "Still sunny."},
    ]
    await ask(api, "/api/chat", tools=[WEATHER], messages=history)
    told = calling.chats[-1]
    assert "get_weather" in told[2].content
    assert ["Sunny." in told[3].content, "Still sunny." in told[4].content] == [True, True]


async def test_arguments_that_are_no_json_are_passed_on_as_text(open_api, make_backend):
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": Rome}}\n</tool_call>'
    api = await open_api(make_backend(answer=broken, context=4096))
    reply = await ask(api, "/api/chat", tools=[WEATHER])
    assert reply["message"]["content"] == 'get_weather({"city": Rome})'


def join(lines, path, field):
    return "".join(
        (line if path == "/api/generate" else line["message"]).get(field, "") for line in lines
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("think", [True, None])
async def test_thoughts_stand_beside_the_answer(open_api, make_backend, path, think):
    backend = make_backend(template=SWITCHED, answer=THOUGHT)
    api = await open_api(backend)
    text = "response" if path == "/api/generate" else "content"
    lines = await collect(api, path, think=think)
    for told in (lines, [await ask(api, path, think=think)]):
        assert join(told, path, "thinking") == "The user greets."
        assert join(told, path, text) == "Hello! 🐟"
    switch = {} if think is None else {"enable_thinking": True}
    assert [prompt.options for prompt in backend.prompts] == [switch] * 2


@pytest.mark.parametrize("path", PATHS)
async def test_thoughts_are_turned_off_where_the_template_can(open_api, make_backend, path):
    backend = make_backend(template=SWITCHED)
    reply = await ask(await open_api(backend), path, think=False)
    assert backend.prompts[0].options == {"enable_thinking": False}
    assert read_text(reply) == ANSWER
    assert "thinking" not in reply and "thinking" not in reply.get("message", {})
    always = await open_api(make_backend(template=TAGGED, answer=THOUGHT))
    refused = check_ollama_error(await always.post(path, json=make_body(path, think=False)), 400)
    assert "'think'" in refused and "always thinks" in refused
    assert (await ask(always, path, think=True))["eval_count"] > 0
    plain = await open_api(make_backend())
    assert read_text(await ask(plain, path, think=False)) == ANSWER


async def test_an_earlier_thought_goes_back_to_the_template(open_api, make_backend):
    backend = make_backend(template=SWITCHED)
    api = await open_api(backend)
    turn = {"role": "assistant", "content": "Hi.", "thinking": "Hm."}
    await ask(api, "/api/chat", messages=[*QUESTION, turn, *QUESTION])
    assert [message.reasoning for message in backend.chats[0]] == [None, "Hm.", None]
    shown = await api.post("/api/show", json={"model": MODEL})
    assert shown.json()["capabilities"] == ["completion", "tools", "thinking"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_raw", [False, True])
async def test_tokens_are_told_with_their_log_probabilities(open_api, make_backend, path, is_raw):
    api = await open_api(make_backend())
    raw = {"raw": True} if is_raw and path == "/api/generate" else {}
    wanted = {"logprobs": True, "top_logprobs": 2, "options": {"num_predict": 5}, **raw}
    whole = await ask(api, path, **wanted)
    lines = await collect(api, path, **wanted)
    assert [entry for line in lines for entry in line.get("logprobs", [])] == whole["logprobs"]
    assert len(whole["logprobs"]) == 5
    assert "".join(entry["token"] for entry in whole["logprobs"]) == read_text(whole)
    for entry in whole["logprobs"]:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert [set(other) for other in entry["top_logprobs"]] == [
            set(entry) - {"top_logprobs"}
        ] * 2
    chosen_only = await ask(api, path, logprobs=True, **raw)
    assert {len(entry["top_logprobs"]) for entry in chosen_only["logprobs"]} == {0}
    assert "logprobs" not in await ask(api, path, logprobs=False, **raw)


async def test_tokens_of_calls_and_thoughts_are_told_too(open_api, make_backend):
    backend = make_backend(template=SWITCHED, answer=f"<think>Hm.</think>{CALL}", context=4096)
    lines = await collect(await open_api(backend), "/api/chat", tools=[WEATHER], logprobs=True)
    told = [entry for line in lines for entry in line.get("logprobs", [])]
    assert len(told) == lines[-1]["eval_count"] - 1  # The end of the text has no entry.
    assert bytes(sum((entry["bytes"] for entry in told), [])).decode().endswith("</tool_call>")


async def test_a_raw_prompt_and_a_model_without_template_get_no_turns(open_api, make_backend):
    for has_template, changes in ((True, {"raw": True}), (False, {})):
        backend = make_backend(has_template=has_template)
        api = await open_api(backend)
        await ask(api, "/api/generate", **changes)
        assert backend.prompts == []
        assert backend.requests[0].prompt_ids == tuple(backend.tokenizer.encode("Hello").ids)
        assert backend.requests[0].max_new_tokens > 100


async def test_a_system_text_goes_before_the_prompt(api, backend):
    await ask(api, "/api/generate", system="Be brief.")
    assert [message.role for message in backend.chats[0]] == ["system", "user"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_without_a_question_only_loads(api, backend, path):
    reply = (await api.post(path, json={"model": MODEL})).json()
    assert (reply["done"], reply["done_reason"]) == (True, "load")
    assert backend.requests == []


async def test_models_are_listed_and_described(open_api, make_backend):
    api = await open_api(make_backend(template="{{ messages }}"))
    (model,) = (await api.get("/api/tags")).json()["models"]
    assert model["name"] == model["model"] == MODEL
    shown = (await api.post("/api/show", json={"model": f"{MODEL}:latest"})).json()
    assert shown["template"] == "{{ messages }}"
    assert shown["capabilities"] == ["completion", "tools"]
    version = (await api.get("/api/version")).json()["version"]
    assert [part.isdigit() for part in version.split(".")] == [True, True, True]


async def test_the_tag_of_ollamas_clients_is_passed_over(api):
    reply = await ask(api, "/api/chat", model=f"{MODEL}:latest")
    assert reply["model"] == f"{MODEL}:latest"


@pytest.mark.parametrize(
    ("path", "change", "named"),
    [
        ("/api/chat", {"think": True}, "think"),
        ("/api/chat", {"messages": [{"role": "user", "images": ["x"]}]}, "messages[0].images"),
        ("/api/chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_name"),
        ("/api/chat", {"format": "xml"}, "format"),
        ("/api/generate", {"think": True, "raw": True}, "think"),
        ("/api/chat", {"think": "high"}, "think"),
        ("/api/chat", {"think": "very"}, "think"),
        ("/api/chat", {"top_logprobs": 2}, "top_logprobs"),
        ("/api/chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/api/chat", {"options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/chat", {"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ("/api/chat", {"options": {"num_predict": 0}}, "options.num_predict"),
        ("/api/chat", {"options": {"num_predict": 100_000}}, "options.num_predict"),
        ("/api/chat", {"options": {"temperature": 3}}, "options.temperature"),
        ("/api/generate", {"suffix": "x"}, "suffix"),
        ("/api/generate", {"context": [1, 2]}, "context"),
        ("/api/generate", {"template": "x"}, "template"),
        ("/api/generate", {"raw": True, "system": "x"}, "system"),
    ],
)
async def test_what_is_not_supported_is_named(api, backend, path, change, named):
    response = await api.post(path, json=make_body(path, **change))
    assert f"'{named}'" in check_ollama_error(response, 400)
    assert backend.requests == []


async def test_refusals_of_every_layer_have_ollamas_shape(open_api, backend, tmp_path):
    keys = tmp_path / "private" / "keys.jsonl"
    key = create_key(keys, "alice", now_s=1_800_000_000)
    api = await open_api(backend, keys_file=keys, limits={"max_body_bytes": 1000})
    check_ollama_error(await api.get("/api/tags"), 401)
    given = {"Authorization": f"Bearer {key}"}
    large = make_body("/api/generate", system="x" * 1000)
    check_ollama_error(await api.post("/api/generate", json=large, headers=given), 413)
    other = make_body("/api/chat", model="llama3")
    check_ollama_error(await api.post("/api/chat", json=other, headers=given), 404)
    check_ollama_error(await api.get("/api/pull", headers=given), 404)


async def test_a_stream_that_fails_ends_with_an_error(open_api, make_backend):
    api = await open_api(make_backend(failure=GenerationFailed("lost"), fail_after=4))
    lines = await collect(api, "/api/chat")
    assert lines[-1] == {"error": "lost"}
