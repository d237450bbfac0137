"""What changes an answer is a field of the endpoint that is asked, or is refused by its name."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.support.gateways import open_client
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL, LocalBackend

TURNS = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BODIES = {
    "/v1/chat/completions": {"model": MODEL, "messages": TURNS},
    "/v1/completions": {"model": MODEL, "prompt": "hi"},
    "/v1/responses": {"model": MODEL, "input": "hi"},
    "/v1/messages": {"model": MODEL, "messages": TURNS, "max_tokens": 4},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": TURNS},
    "/api/chat": {"model": MODEL, "messages": TURNS},
    "/api/generate": {"model": MODEL, "prompt": "hi"},
    "/inference": {"prompt": "hi"},
}
SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "seed": 5,
    "n": 2,
    "best_of": 2,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.2,
    "repeat_penalty": 1.2,
    "logit_bias": {"65": 5},
    "no_repeat_ngram_size": 2,
    "mirostat": 2,
    "typical": 0.5,
    "typical_p": 0.5,
    "tfs_z": 0.5,
    "top_a": 0.2,
    "top_n_sigma": 1.0,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "dynatemp_range": 0.2,
    "use_beam_search": True,
    "num_beams": 3,
    "length_penalty": 0.5,
    "do_sample": False,
    "samplers": ["top_k"],
    "bad_words": ["a"],
    "allowed_token_ids": [65, 66],
    "suppress_tokens": [65],
    "logits_processors": ["x"],
}
FORMS = {
    "structured_outputs": {"choice": ["yes"]},
    "guided_json": {"type": "object"},
    "guided_regex": "a+",
    "guided_choice": ["yes"],
    "guided_grammar": "x",
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "regex": "a+",
    "ebnf": "x",
    "response_format": {"type": "json_object"},
    "format": "json",
    "tools": [TOOL],
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["audio"],
}
LENGTHS = {
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "max_output_tokens": 5,
    "max_new_tokens": 5,
    "n_predict": 5,
    "num_predict": 5,
    "min_tokens": 2,
    "min_length": 3,
    "min_new_tokens": 2,
    "ignore_eos": True,
    "stop": ["zz"],
    "stop_sequences": ["zz"],
    "stop_strings": ["zz"],
    "stop_token_ids": [65],
    "include_stop_str_in_output": True,
}
PROMPTS = {
    "chat_template": "{{x}}",
    "chat_template_kwargs": {"enable_thinking": False},
    "add_generation_prompt": False,
    "continue_final_message": True,
    "truncate_prompt_tokens": 3,
    "documents": [{"title": "a"}],
    "messages": TURNS,
    "prompt": "ho",
    "input": "ho",
    "system": "Be brief.",
    "instructions": "Be brief.",
    "suffix": "x",
    "enable_thinking": False,
    "reasoning_effort": "high",
    "verbosity": "low",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "previous_response_id": "resp_1",
}
ANSWERS = {
    "echo": True,
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": 1,
    "skip_special_tokens": False,
    "separate_reasoning": False,
    "raw": True,
}
PARAMETERS = {**SAMPLING, **FORMS, **LENGTHS, **PROMPTS, **ANSWERS}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def backend(tokenizer):
    return LocalBackend(tokenizer=tokenizer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(backend):
    async with open_client(backend) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fields(api):
    """The fields of each endpoint, as its OpenAPI document tells them."""
    told = (await api.get("/openapi.json")).json()

    def find(path):
        body = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = body["$ref"].rpartition("/")[2]
        return set(told["components"]["schemas"][name]["properties"])

    return {path: find(path) for path in BODIES}


@pytest.mark.parametrize("path", BODIES)
async def test_what_changes_an_answer_is_a_field_or_is_refused_by_name(api, backend, fields, path):
    backend.requests.clear()
    passed = []
    for name, value in PARAMETERS.items():
        if name in fields[path]:
            continue
        response = await api.post(path, json={**BODIES[path], name: value})
        if response.status_code != 400 or f"'{name}'" not in response.text:
            passed.append((name, response.status_code))
    assert passed == []
    assert backend.requests == []


@pytest.mark.parametrize("path", BODIES)
async def test_every_parameter_is_accepted_as_null(api, fields, path):
    nulls = dict.fromkeys(PARAMETERS.keys() - fields[path])
    response = await api.post(path, json={**nulls, **BODIES[path]})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", BODIES)
async def test_values_that_change_nothing_are_accepted(api, fields, path):
    neutral = {
        "n": 1,
        "best_of": 1,
        "top_k": -1,
        "frequency_penalty": 0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "stop": [],
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "ignore_eos": False,
        "skip_special_tokens": True,
        "store": False,
        "verbosity": "medium",
        "user": "me",
        "metadata": {},
        "wobble": 1,
    }
    given = {name: value for name, value in neutral.items() if name not in fields[path]}
    response = await api.post(path, json={**given, **BODIES[path]})
    assert response.status_code == 200, response.text


async def test_an_option_of_ollama_in_the_wrong_place_is_told_the_right_one(api):
    response = await api.post("/api/chat", json={**BODIES["/api/chat"], "temperature": 0.1})
    assert response.status_code == 400
    assert response.json() == {
        "error": "'temperature' is not supported here; send it within 'options'."
    }


async def test_an_unknown_option_of_ollama_that_changes_an_answer_is_refused(api):
    options = {"num_ctx": 4096, "mirostat_tau": 5.0, "repeat_last_n": -1}
    body = {**BODIES["/api/chat"], "options": options}
    assert (await api.post("/api/chat", json=body)).status_code == 200
    body = {**body, "options": {**options, "logit_bias": {"65": 1}}}
    response = await api.post("/api/chat", json=body)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "'options.logit_bias' is not supported."},
    )


async def test_how_long_words_a_response_has_is_refused_within_text(api):
    body = {**BODIES["/v1/responses"], "text": {"verbosity": "low"}}
    check_error(await api.post("/v1/responses", json=body), 400, param="text.verbosity")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("add_special_tokens", False), ("truncate_prompt_tokens", 3), ("input_type", "query")],
)
async def test_what_changes_a_vector_is_refused_by_name(api, backend, path, name, value):
    backend.embedded.clear()
    response = await api.post(path, json={"model": MODEL, "input": "hi", name: value})
    assert response.status_code == 400
    assert f"'{name}'" in response.text
    assert backend.embedded == []


async def test_tokens_are_those_of_the_same_request_to_chat(api, backend):
    for given, split in ((None, True), (True, True), (False, False)):
        body = {"messages": TURNS, "split_special_tokens": given}
        assert (await api.post("/tokenize", json=body)).status_code == 200
        assert backend.prompts[-1].split_special_tokens is split
