"""What a stranger's grammar may ask for beyond what llguidance limits itself.

Text that a grammar forces is computed at once, whatever its length, and ``(a{1000}){1000}`` forces
a million characters. So the repetitions that may stand within each other are multiplied first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from mesh.inference.grammar import Grammar, GrammarKind

MAX_REPEATS = 10_000
MAX_SCHEMA_DEPTH = 64
_REPEAT = re.compile(r"\{\s*(\d+)|\~\s*(\d+)")
_JSON = "%json"


class TooManyRepeats(ValueError):
    """Repetitions within each other ask for too long a text, or a schema is too deep."""


def check_repeats(grammar: Grammar) -> None:
    """Raise TooManyRepeats; ValueError for a schema that is no JSON."""
    for text in _list_texts(grammar):
        counts = (int(first or second) for first, second in _REPEAT.findall(text))
        if math.prod(max(1, min(count, MAX_REPEATS + 1)) for count in counts) > MAX_REPEATS:
            raise TooManyRepeats(f"its repetitions ask for more than {MAX_REPEATS} characters")


def _list_texts(grammar: Grammar) -> Iterator[str]:
    """Yield the texts within which repetitions may multiply."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            yield from _list_patterns(_parse(grammar.text))
        case GrammarKind.REGEX:
            yield grammar.text
        case GrammarKind.LARK:
            rules = []
            for line in grammar.text.splitlines():
                rule, _, schema = line.partition(_JSON)
                rules.append(rule)
                if schema:
                    yield from _list_patterns(_parse(schema))
            yield "\n".join(rules)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise TooManyRepeats(f"the schema is deeper than {MAX_SCHEMA_DEPTH}") from None


def _list_patterns(schema: Any, depth: int = 0) -> Iterator[str]:
    if depth > MAX_SCHEMA_DEPTH:
        raise TooManyRepeats(f"the schema is deeper than {MAX_SCHEMA_DEPTH}")
    if isinstance(schema, dict):
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            yield pattern
        for key, value in schema.items():
            # The names of patternProperties are patterns themselves.
            if key == "patternProperties" and isinstance(value, dict):
                yield from value
            yield from _list_patterns(value, depth + 1)
    elif isinstance(schema, list):
        for value in schema:
            yield from _list_patterns(value, depth + 1)
