"""What an answer has to look like, by any of the names under which callers ask for it."""

from __future__ import annotations

import json
import re
from typing import Any

from mesh.api.backend import Backend
from mesh.api.problems import Problem
from mesh.api.schemas import (
    ChatRequest,
    JsonSchemaFormat,
    ObjectFormat,
    SamplingFields,
)
from mesh.api.token_sets import find_token_set
from mesh.errors import InvalidRequest
from mesh.inference.grammar import MAX_GRAMMAR_BYTES, WHITESPACE, Grammar, GrammarKind

ANY_OBJECT: dict[str, Any] = {"type": "object"}
MAX_SCHEMA_DEPTH = 64
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: (\[.*?\])")

Wanted = tuple[str, Grammar]
"""The field that asks for it, and the grammar."""


def find_grammar(body: SamplingFields) -> Wanted | None:
    """Return the grammar that a request asks for. Raises Problem 400 for two of them."""
    named = (*_list_guided(body), _read_response_format(body), find_token_set(body))
    asked = [wanted for wanted in named if wanted]
    if len(asked) > 1:
        raise Problem(400, f"'{asked[0][0]}' and '{asked[1][0]}' are too many.", param=asked[1][0])
    return asked[0] if asked else None


def _list_guided(body: SamplingFields) -> list[Wanted]:
    asked: list[Wanted] = []
    if body.guided_json is not None:
        asked.append(("guided_json", make_schema(body.guided_json)))
    if body.guided_regex is not None:
        asked.append(("guided_regex", _make_regex(body.guided_regex)))
    if body.guided_choice is not None:
        asked.append(("guided_choice", _make_choice(body.guided_choice)))
    outputs = body.structured_outputs
    if outputs is None:
        return asked
    if outputs.json_ is not None:
        asked.append(("structured_outputs.json", make_schema(outputs.json_)))
    if outputs.regex is not None:
        asked.append(("structured_outputs.regex", _make_regex(outputs.regex)))
    if outputs.choice is not None:
        asked.append(("structured_outputs.choice", _make_choice(outputs.choice)))
    if outputs.json_object:
        asked.append(("structured_outputs.json_object", make_schema(ANY_OBJECT)))
    return asked


def _read_response_format(body: SamplingFields) -> Wanted | None:
    wanted = body.response_format if isinstance(body, ChatRequest) else None
    match wanted:
        case ObjectFormat():
            return "response_format", make_schema(ANY_OBJECT)
        case JsonSchemaFormat():
            schema = wanted.json_schema.schema_
            name = "response_format.json_schema.schema"
            return name, make_schema(ANY_OBJECT if schema is None else schema)
    return None


def make_schema(schema: dict[str, Any] | str) -> Grammar:
    """Return the grammar of the JSON values of a schema, given as an object or as its text."""
    # In ASCII: JSON can spell half a character, which no frame takes.
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return Grammar(GrammarKind.JSON_SCHEMA, text)


def _make_regex(text: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, text)


def _make_choice(choices: list[str]) -> Grammar:
    # A string of Lark is written as one of JSON.
    return make_lark(["start: " + " | ".join(json.dumps(c, ensure_ascii=False) for c in choices)])


def write_json_rule(schema: Any) -> str:
    """Return a schema as it stands in a rule of Lark, with the same limit of blanks as alone."""
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return f"%json {json.dumps(schema)}"


def make_lark(rules: list[str]) -> Grammar:
    """Return the grammar of rules, of which one is ``start``."""
    return Grammar(GrammarKind.LARK, "\n".join(rules) + "\n")


async def check_grammar(
    backend: Backend, model_id: str, wanted: Wanted, *, asked: SamplingFields
) -> None:
    """Compile a grammar. Raises Problem 400 that names the field, and the place in its schema."""
    field, grammar = wanted
    if len(grammar.text.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
        raise Problem(400, f"It has more than {MAX_GRAMMAR_BYTES} bytes.", param=field)
    try:
        await backend.check_grammar(model_id, grammar)
    except InvalidRequest as error:
        text = str(error).removeprefix(f"{error.field}: ")
        raise Problem(
            400, text, param=field + _find_place(text, asked, field), code="invalid_grammar"
        ) from error


def _find_place(text: str, asked: SamplingFields, field: str) -> str:
    """Return the path of the first key that the grammar does not know, such as ``.items.not``."""
    found = _UNKNOWN_KEYS.search(text)
    if found is None:
        return ""
    schema: Any = asked.model_dump(by_alias=True, exclude_none=True)
    for name in field.split("."):
        schema = schema.get(name) if isinstance(schema, dict) else None
    try:
        keys = set(json.loads(found.group(1)))
    except ValueError:
        return ""
    path = _find_key(schema, keys, MAX_SCHEMA_DEPTH)
    return "" if path is None else path[:256]


def _find_key(schema: Any, keys: set[str], depth: int) -> str | None:
    if depth == 0:
        return None
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in keys:
                return f".{key}"
            if (path := _find_key(value, keys, depth - 1)) is not None:
                return f".{key}{path}"
    elif isinstance(schema, list):
        for place, value in enumerate(schema):
            if (path := _find_key(value, keys, depth - 1)) is not None:
                return f"[{place}]{path}"
    return None
