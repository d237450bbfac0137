"""Runs add up: a decoder that has had its inputs is passed over, and another goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import choose_order, parse_arguments, plan_run
from tests.fuzz.results import (
    MARK,
    START_S,
    Run,
    Total,
    append_run,
    put_table,
    read_totals,
    render_table,
)
from tests.fuzz.target import Target


def make_run(name: str, inputs: int, *, cpu_s: float = 1.0 + START_S, seed: int = 1) -> Run:
    return Run(name, inputs, cpu_s, seed, "2030-01-02")


def make_target(name: str) -> Target:
    return Target(name, bytes, (), lambda: [b""])


def test_runs_of_one_decoder_add_up(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert read_totals(path) == {}
    for run in (
        make_run("a", 10),
        make_run("b", 5),
        make_run("a", 20, cpu_s=2.0 + START_S, seed=2),
    ):
        append_run(path, run)
    totals = read_totals(path)
    assert (totals["a"].inputs, round(totals["a"].rate), totals["a"].next_seed) == (30, 10, 3)
    assert totals["b"].inputs == 5


def test_a_decoder_gets_what_it_lacks_under_a_new_seed() -> None:
    totals = {"a": Total((make_run("a", 30, seed=4),))}
    plan = plan_run(make_target("a"), totals, parse_arguments(["--inputs", "100"]))
    assert (plan.inputs, plan.seed) == (70, 5)
    new = plan_run(make_target("new"), totals, parse_arguments(["--inputs", "100", "--seed", "7"]))
    assert (new.inputs, new.seed) == (100, 7)


def test_the_fastest_come_first_and_those_with_enough_not_at_all() -> None:
    totals = {
        "slow": Total((make_run("slow", 10, cpu_s=9.0),)),
        "fast": Total((make_run("fast", 10),)),
        "done": Total((make_run("done", 100),)),
    }
    targets = [make_target(name) for name in ("new", "slow", "done", "fast")]
    order = choose_order(targets, totals, parse_arguments(["--inputs", "100"]))
    assert [target.name for target in order] == ["fast", "slow", "new"]


def test_the_table_says_how_many_have_had_a_million_and_what_is_missing() -> None:
    totals = {
        "whole": Total((make_run("whole", 1_000_000),)),
        "half": Total((make_run("half", 500_000, cpu_s=3600.0),)),
    }
    table = render_table(totals, ["half", "never", "whole"])
    assert "1 of 3 decoders have had a million inputs, and all of them 1,500,000." in table
    assert "one core 1.0 hours" in table
    assert "not counted in it, 1 of them" in table
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert rows == ["| `whole`", "| `half`", "| `never`"]


def test_a_table_takes_the_place_of_the_one_before() -> None:
    once = put_table(f"# Head\n\n{MARK}\n\nold\n", "new\n")
    assert once == f"# Head\n\n{MARK}\n\nnew\n"
    with pytest.raises(ValueError, match="no line"):
        put_table("# Head\n", "new\n")
