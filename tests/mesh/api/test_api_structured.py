"""Answers with a form, and what changes their sampling, through the official client."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest

from mesh.inference.grammar import Grammar, GrammarKind
from tests.mesh.api.test_api_openai_client import QUESTION, make_client
from tests.support.http_checks import check_error
from tests.support.local_backend import MODEL

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
AS_SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
ANY_OBJECT = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')


async def ask(api, **options):
    async with make_client(api) as client:
        return await client.chat.completions.create(
            **{"model": MODEL, "messages": QUESTION, "temperature": 0, **options}
        )


@pytest.mark.parametrize(
    ("options", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT),
        ({"response_format": JSON_SCHEMA}, AS_SCHEMA),
        ({"extra_body": {"guided_json": SCHEMA}}, AS_SCHEMA),
        ({"extra_body": {"guided_json": json.dumps(SCHEMA)}}, AS_SCHEMA),
        ({"extra_body": {"guided_regex": "a+"}}, Grammar(GrammarKind.REGEX, "a+")),
        (
            {"extra_body": {"guided_choice": ['ja"', "nein"]}},
            Grammar(GrammarKind.LARK, 'start: "ja\\"" | "nein"\n'),
        ),
        ({"extra_body": {"structured_outputs": {"json": SCHEMA}}}, AS_SCHEMA),
        ({"extra_body": {"structured_outputs": {"json_object": True}}}, ANY_OBJECT),
        ({"extra_body": {"structured_outputs": {"regex": "a"}}}, Grammar(GrammarKind.REGEX, "a")),
    ],
)
async def test_every_name_for_a_form_becomes_a_grammar(api, backend, options, grammar):
    await ask(api, **options)
    assert backend.requests[0].sampling.grammar == grammar


async def test_the_client_parses_an_answer_into_a_model(open_api, make_backend):
    class Answer(pydantic.BaseModel):
        a: int

    api = await open_api(make_backend(answer='{"a": 7}'))
    async with make_client(api) as client:
        reply = await client.chat.completions.parse(
            model=MODEL, messages=QUESTION, response_format=Answer, temperature=0
        )
    assert reply.choices[0].message.parsed == Answer(a=7)


async def test_a_schema_that_cannot_be_followed_is_refused_with_the_place(api, backend):
    backend.bad_grammar = 'Unimplemented keys: ["not"]'
    schema = {"type": "object", "properties": {"a": {"items": [{"not": {}}]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as raised:
        await ask(api, response_format=wanted)
    assert raised.value.code == "invalid_grammar"
    assert raised.value.param == "response_format.json_schema.schema.properties.a.items[0].not"
    assert backend.requests == []


async def test_what_changes_the_sampling_reaches_the_backend(api, backend):
    await ask(
        api,
        frequency_penalty=0.5,
        presence_penalty=-1,
        logit_bias={"7": -100, "9": 3.5},
        extra_body={"min_p": 0.1, "min_tokens": 3, "stop_token_ids": [5], "ignore_eos": True},
    )
    (request,) = backend.requests
    sampling = request.sampling
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -1.0)
    assert sampling.logit_bias == ((7, -100.0), (9, 3.5))
    assert (sampling.min_p, sampling.min_tokens) == (0.1, 3)
    assert sampling.stop_token_ids == (5,) and request.ignore_eos


async def test_variables_of_the_template_reach_it(api, backend):
    await ask(api, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert backend.prompts[0].options == {"enable_thinking": False}


async def test_legacy_completions_have_them_too(api, backend):
    body = {"model": MODEL, "prompt": "hi", "guided_regex": "a", "presence_penalty": 1}
    assert (await api.post("/v1/completions", json=body)).status_code == 200
    assert backend.requests[0].sampling.grammar == Grammar(GrammarKind.REGEX, "a")
    assert backend.requests[0].sampling.presence_penalty == 1.0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"logit_bias": {"7": 101}}, "logit_bias"),
        ({"logit_bias": {"seven": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {str(n): 0 for n in range(1025)}}, "logit_bias"),
        ({"min_p": 1.5}, "min_p"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [99999]}, "stop_token_ids"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"guided_regex": "a" * 70_000}, "guided_regex"),
        ({"guided_json": {"const": "a" * 70_000}}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": JSON_SCHEMA}, "response_format"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"suppress_tokens": [1], "ignore_eos": True}, "ignore_eos"),
        ({"suppress_tokens": [1], "min_tokens": 2}, "min_tokens"),
        ({"suppress_tokens": [100_000]}, "suppress_tokens"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]"),
        ({"allowed_token_ids": [1, 2], "suppress_tokens": [1, 2]}, "suppress_tokens"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar"),
        *(
            ({name: value}, name)
            for name, value in {
                "best_of": 2,
                "grammar": "root ::= x",
                "json_schema": {},
                "bad_words": ["x"],
                "repeat_penalty": 1.1,
                "no_repeat_ngram_size": 2,
                "mirostat": 2,
                "typical": 0.5,
                "tfs_z": 0.5,
                "dry_multiplier": 0.8,
                "xtc_probability": 0.5,
                "chat_template": "x",
                "truncate_prompt_tokens": 10,
                "skip_special_tokens": False,
            }.items()
            if name != "json_schema"
        ),
        ({"json_schema": {"type": "object"}}, "json_schema"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(api, backend, change, param):
    body = {"model": MODEL, "messages": QUESTION, **change}
    error = check_error(await api.post("/v1/chat/completions", json=body), 400)
    assert error["param"].startswith(param)
    assert backend.requests == []
