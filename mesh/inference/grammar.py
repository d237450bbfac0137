"""Grammars that an answer must follow, as they travel: a kind and a text.

Clients and hosters compile them with the same library (mesh/inference/grammar_compiler.py). No
library here: clients over HTTP use this too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import InvalidRequest

MAX_GRAMMAR_BYTES = 64 << 10
WHITESPACE = r"[ \n\t]{0,16}"
"""Between the tokens of a JSON text: without a limit a small model may write nothing else."""


class GrammarKind(IntEnum):
    """How the text is to be read. LARK is llguidance's dialect, in which JSON schemas can stand."""

    JSON_SCHEMA = 1
    REGEX = 2
    LARK = 3


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must be: a JSON value of a schema, or a text of a regex or Lark grammar."""

    kind: GrammarKind
    text: str

    def check(self) -> None:
        """Raise InvalidRequest for a text that is empty or too long."""
        size = len(self.text.encode("utf-8", "replace"))
        if not 0 < size <= MAX_GRAMMAR_BYTES:
            raise InvalidRequest("grammar", f"must have 1 to {MAX_GRAMMAR_BYTES} bytes, not {size}")
