"""The harness tells what is noticed from what survives, and the list fits the sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import __main__ as command
from tests.mutation.harness import (
    SURVIVED,
    BadBaseline,
    BadList,
    Harness,
    Mutation,
    Stage,
    describe,
)
from tests.mutation.mutations import MUTATIONS

RULE = """
import sys


def is_adult(age):
    return age >= 18


def is_child(age):
    while age > 3:
        if age > 12:
            return False
        age -= 1
    return True
"""
VECTORS = "from toy.rule import is_adult; assert is_adult(18) and not is_adult(17)"
SCENARIO = "from toy.rule import is_child; assert is_child(5)"
ADULT = Mutation("a year late", "toy/rule.py", "age >= 18", "age > 18", "who is 18 is refused")
CHILD = Mutation("children of 12", "toy/rule.py", "age > 12", "age > 11", "who is 12 is refused")
ENDLESS = Mutation("for ever a child", "toy/rule.py", "age -= 1", "age -= 0", "it never ends")


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("")
    (tmp_path / "toy" / "rule.py").write_text(RULE)
    stages = (Stage("vectors", ("-c", VECTORS)), Stage("scenarios", ("-c", SCENARIO)))
    return Harness(tmp_path, ("toy",), stages)


def test_a_broken_rule_is_killed_by_the_first_stage_that_notices(harness: Harness) -> None:
    verdicts = list(harness.run([ADULT, CHILD], parallel=2))
    assert [verdict.killed_by for verdict in verdicts] == ["vectors", SURVIVED]
    assert [verdict.has_survived for verdict in verdicts] == [False, True]
    assert describe(verdicts).splitlines()[1].split("  ")[-1] == SURVIVED
    # What is broken is a copy.
    assert (harness.root / "toy" / "rule.py").read_text() == RULE


def test_a_broken_rule_that_never_ends_is_killed_by_time(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.mutation.harness.MIN_LIMIT_S", 5.0)
    (verdict,) = harness.run([ENDLESS])
    assert verdict.killed_by == "scenarios"
    assert "no end within" in verdict.said


def test_an_old_text_that_does_not_stand_there_once_is_an_error_of_the_list(
    harness: Harness,
) -> None:
    gone = Mutation("gone", "toy/rule.py", "age >= 21", "age >= 18", "")
    with pytest.raises(BadList, match="'gone': its old text stands 0 times in toy/rule.py"):
        harness.check_list([gone])
    twice = Mutation("twice", "toy/rule.py", "return", "pass", "")
    with pytest.raises(BadList, match="stands 3 times"):
        harness.check_list([twice])
    with pytest.raises(BadList, match="two mutations are called 'a year late'"):
        harness.check_list([ADULT, ADULT])


def test_a_stage_that_fails_on_unbroken_sources_kills_nothing(harness: Harness) -> None:
    broken = Harness(harness.root, harness.sources, (Stage("vectors", ("-c", "assert False")),))
    with pytest.raises(BadBaseline, match="vectors fails on unbroken sources"):
        list(broken.run([ADULT]))


def test_the_list_fits_the_sources() -> None:
    Harness(command.ROOT, command.SOURCES, command.STAGES).check_list(MUTATIONS)
    assert len(MUTATIONS) >= 30
