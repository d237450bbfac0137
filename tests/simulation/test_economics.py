"""Cheats do not pay: each strategy beside honest nodes, in real records and real torch outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from subnet.simulation.economics.answers import ModelAnswers
from subnet.simulation.economics.models import load_shipped, make_wide
from subnet.simulation.economics.strategies import FIRST_CHEAT, list_strategies
from subnet.simulation.economics.table import format_table, list_jobs, measure, run_strategy

EPOCHS = 6
STRATEGIES = {strategy.name: strategy for strategy in list_strategies()}
SLOW = {"challenge-only", "serves garbage", "garbage majority on one layer"}
"""Found after more epochs than are run here; ``mesh simulate --economics`` runs 200."""


@pytest.fixture(scope="module")
def answers() -> ModelAnswers:
    return load_shipped()


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - SLOW))
def test_a_cheat_earns_at_most_a_fifth_or_what_it_honestly_did(
    answers: ModelAnswers, name: str
) -> None:
    row = run_strategy(STRATEGIES[name], answers, epochs=EPOCHS, seed=1)
    print(row.describe())
    assert row.is_stopped, row.describe()


def test_a_box_that_serves_nobody_is_unpaid_after_some_epochs(answers: ModelAnswers) -> None:
    few = run_strategy(STRATEGIES["challenge-only"], answers, epochs=2, seed=1)
    many = run_strategy(STRATEGIES["challenge-only"], answers, epochs=24, seed=1)
    assert few.share > 0.9
    assert many.share < 0.3 * few.share


def test_honest_nodes_alone_are_paid_alike_and_lose_no_epoch(answers: ModelAnswers) -> None:
    strategy = STRATEGIES["silent"]
    row = run_strategy(strategy, answers, epochs=EPOCHS, seed=2)
    assert row.worst_honest > 0.99
    assert row.lost == 0


def test_every_cheat_has_an_id_of_a_cheat_and_a_row_in_the_table(answers: ModelAnswers) -> None:
    for strategy in STRATEGIES.values():
        cheats = [actor for actor in strategy.build() if not actor.is_honest]
        assert cheats and all(actor.node_id >= FIRST_CHEAT for actor in cheats)
    row = run_strategy(STRATEGIES["silent"], answers, epochs=2, seed=1)
    assert "| silent | 0.00 |" in format_table([row])


def test_the_chain_removes_a_hoster_that_is_refuted_again_and_again(answers: ModelAnswers) -> None:
    row = run_strategy(STRATEGIES["garbage alone"], answers, epochs=40, seed=1)
    assert row.listed < 1
    assert row.reputation == 0
    assert row.worst_honest > 0.99


def test_the_chain_slashes_the_proposer_of_bent_rows_and_nobody_else(answers: ModelAnswers) -> None:
    row = run_strategy(STRATEGIES["bent proposal"], answers, epochs=12, seed=1)
    assert row.refused == row.proposals > 0
    assert row.reward < 0
    assert row.reputation < 1


def test_int8_is_unpaid_on_a_random_model_of_tinyllamas_width_too() -> None:
    row = run_strategy(STRATEGIES["int8"], make_wide(), epochs=2, seed=1, model="wide")
    assert row.share == 0
    assert row.worst_honest > 0.99


def test_every_strategy_about_numbers_is_measured_on_both_models() -> None:
    jobs = list_jobs()
    assert {name for name, model in jobs if model == "shipped"} == STRATEGIES.keys()
    assert {name for name, model in jobs if model == "wide"} == {
        "relay", "perturbed relay", "int8", "int4", "bf16", "skipped layer", "wrong weights",
    }  # fmt: skip


def test_rows_come_from_other_processes() -> None:
    rows = list(measure(2, seed=1, names=("silent",), processes=2))
    assert [(row.name, row.share) for row in rows] == [("silent", 0.0)]


def test_every_row_stands_in_the_security_page() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    for name, model in list_jobs():
        title = name + (" (TinyLlama's width)" if model == "wide" else "")
        assert f"| {title} |" in page
