"""``allowed_token_ids`` and ``suppress_tokens``: which tokens may come at all, in the whole answer.

They travel as a grammar (mesh/inference/grammar.py), so hosters that compile grammars honour them
exactly, and no others are asked. The grammar never says that the text may end, so the model's end
is a token like any other: where it may not come, only the length ends the answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from mesh.api.problems import Problem
from mesh.api.schemas import SamplingFields
from mesh.inference.grammar import Grammar, GrammarKind

TOKEN_SETS = frozenset({"allowed_token_ids", "suppress_tokens"})
"""The fields; an answer by one of them is free text, in which thoughts and calls may stand."""


def find_token_set(body: SamplingFields) -> tuple[str, Grammar] | None:
    """Return the field that asks for a set of tokens, and its grammar. Raises Problem 400."""
    suppressed = set(body.suppress_tokens or ())
    if not body.allowed_token_ids:
        return ("suppress_tokens", _make_grammar(suppressed, "^")) if suppressed else None
    left = set(body.allowed_token_ids) - suppressed
    if not left:
        raise Problem(
            400, "Every allowed token is suppressed.", param="suppress_tokens", code="invalid_value"
        )
    return "allowed_token_ids", _make_grammar(left, "")


def _make_grammar(token_ids: Iterable[int], sign: str) -> Grammar:
    """Return the grammar of endless texts of these tokens, or with ``^`` of all the others."""
    ranges = ",".join(_write_ranges(sorted(token_ids)))
    return Grammar(GrammarKind.LARK, f"start: <[{sign}{ranges}]> start\n")


def _write_ranges(token_ids: Iterable[int]) -> Iterable[str]:
    # Consecutive ids have one difference from their places.
    for _, run in itertools.groupby(enumerate(token_ids), key=lambda pair: pair[1] - pair[0]):
        ids = [token_id for _, token_id in run]
        yield f"{ids[0]}-{ids[-1]}" if len(ids) > 1 else f"{ids[0]}"
