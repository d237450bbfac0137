"""Cheats do not pay: each strategy beside honest nodes, in real records and real torch outputs."""

from __future__ import annotations

import pytest

from subnet.simulation.economics.answers import ModelAnswers
from subnet.simulation.economics.strategies import FIRST_CHEAT, list_strategies
from subnet.simulation.economics.table import format_table, load_answers, run_strategy

EPOCHS = 6
STRATEGIES = {strategy.name: strategy for strategy in list_strategies()}
SLOW = {"challenge-only", "serves garbage", "garbage majority on one layer"}
"""Found after more epochs than are run here; ``mesh simulate --economics`` runs 200."""


@pytest.fixture(scope="module")
def answers() -> ModelAnswers:
    return load_answers()


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
