"""Invalid inputs that decoders refuse, each with the error and the reason.

Some broke a decoder once: with another error, or because they were taken. ``python -m tests.fuzz
--target NAME --replay FILE`` prints the entry of an input that is found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.targets import TARGETS

DIRECTORY = Path(__file__).parent
VECTORS = [
    pytest.param(vector, id=f"{vector['target']}: {vector['name']}")
    for path in sorted(DIRECTORY.glob("invalid_*.json"))
    for vector in json.loads(path.read_text(encoding="ascii"))
]


@pytest.mark.parametrize("vector", VECTORS)
def test_an_invalid_input_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    target = TARGETS[vector["target"]]
    refusal = target.find_refusal(bytes.fromhex(vector["input"]))
    assert refusal is not None, "the decoder takes it"
    assert (type(refusal).__name__, str(refusal)) == (vector["error"], vector["reason"])


def test_names_are_given_once() -> None:
    names = [(param.values[0]["target"], param.values[0]["name"]) for param in VECTORS]
    assert len(set(names)) == len(names)
