"""What a suite's report says, held against what ``outcomes.toml`` expects.

A test that is not listed must pass. A listed one must fail, or be skipped by the suite itself, with
the listed words in its message; any other end of it is an error, so a list never hides a change.
Each entry has a ``kind``:

- ``refused``: the gateway does not serve this and says so;
- ``model``: a model of 135 million parameters cannot do it, and the answer is well formed;
- ``client``: the client or its suite is at fault.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

KINDS = ("refused", "model", "client")
_FIELDS = {"kind", "says", "because"}


class BadList(Exception):
    """An ``outcomes.toml`` that cannot be read, or whose entries lack a field."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How one test ends instead of passing: ``says`` stands in its message."""

    kind: str
    says: str
    because: str


@dataclass(frozen=True, slots=True)
class Ended:
    """One test of a report; ``message`` is empty if it passed."""

    name: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts by ``passed`` and the kinds, and what is not as expected, one line each."""

    counts: Mapping[str, int]
    errors: Sequence[str]


def read_expected(path: Path) -> dict[str, Expected]:
    """Read a list, which may be absent. Raises BadList."""
    if not path.is_file():
        return {}
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, entry in entries.items():
        if set(entry) != _FIELDS or entry["kind"] not in KINDS or not all(entry.values()):
            raise BadList(f"{path.parent.name}: {name} needs kind, says and because")
    return {name: Expected(**entry) for name, entry in entries.items()}


def read_report(path: Path) -> list[Ended]:
    """Read the JUnit report of pytest or of Node's test runner."""
    return [
        Ended(_name(case), _read_message(case)) for case in ElementTree.parse(path).iter("testcase")
    ]


def judge(ended: Sequence[Ended], expected: Mapping[str, Expected]) -> Verdict:
    """Hold a report against a list."""
    counts: Counter[str] = Counter()
    errors = [f"{name}: listed, but no such test" for name in expected.keys() - _names(ended)]
    if not ended:
        errors.append("no test ran")
    for test in ended:
        wanted = expected.get(test.name)
        if wanted is None and not test.message:
            counts["passed"] += 1
        elif wanted is None:
            errors.append(f"{test.name}: failed\n{test.message}")
        elif not test.message:
            errors.append(f"{test.name}: passed, but is listed as {wanted.kind}")
        elif wanted.says not in test.message:
            errors.append(f"{test.name}: failed without {wanted.says!r}\n{test.message}")
        else:
            counts[wanted.kind] += 1
    return Verdict(counts, errors)


def _names(ended: Sequence[Ended]) -> set[str]:
    return {test.name for test in ended}


def _name(case: ElementTree.Element) -> str:
    owner = case.get("classname", "").rpartition(".")[2]
    name = case.get("name", "")
    return name if owner in ("", "suite", "test") else f"{owner}::{name}"


def _read_message(case: ElementTree.Element) -> str:
    said = []
    for kind in ("failure", "error", "skipped"):
        for entry in case.findall(kind):
            said.append(f"{kind}: {entry.get('message', '')}\n{entry.text or ''}")
    return "\n".join(said)
