"""What a node keeps is bounded, counted from its epoch loop on."""

from __future__ import annotations

import pytest

from devchain import rewards
from devchain.chain_types import ONE
from subnet.epoch.collector import Collector
from subnet.journal.journal import Journal
from subnet.simulation.bounds import count_entries
from subnet.simulation.invariants import Violation
from subnet.simulation.network import Replica
from subnet.simulation.world import World, run_scenario
from tests.simulation.test_attacks import make_scenario, make_small_scenario

GROWING = {"Journal._reports", "Journal.reports"}
"""128 reports are kept for people, more than a run has."""


def count_kept(epochs: int) -> dict[str, int]:
    """Return what all nodes together keep, by table, when a run of so many epochs ends."""
    worlds: list[World] = []
    run_scenario(make_small_scenario(epochs), prepare=worlds.append)
    kept: dict[str, int] = {}
    for node in worlds[0].nodes.values():
        for path, count in count_entries(node.program).items():
            kept[path] = kept.get(path, 0) + count
    return kept


def test_a_node_keeps_no_more_after_24_epochs_than_after_12() -> None:
    before, after = count_kept(12), count_kept(24)
    assert before.keys() == after.keys()
    # Whether a record was seen or fetched is a matter of moments; it is kept once either way.
    grown = {
        path: (before[path], count)
        for path, count in after.items()
        if path not in GROWING and count > 1.1 * before[path] + 8
    }
    assert not grown


def test_a_journal_that_forgets_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_forget", lambda self, before: None)
    with pytest.raises(Violation, match=r"entries in Journal\._"):
        run_scenario(make_small_scenario(8))


def test_rows_that_are_never_deleted_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(self: Journal, before: int) -> None:
        self._forget(before)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "_prune", keep)
    with pytest.raises(Violation, match=r"Log\._epochs|rows on disk"):
        run_scenario(make_small_scenario(40))


def test_a_table_that_grows_is_counted_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Collector.is_challenge_seen

    def leak(self: Collector, roster: object) -> bool:
        self.__dict__.setdefault("_leak", []).extend(range(100))
        return read(self, roster)  # type: ignore[arg-type]

    monkeypatch.setattr(Collector, "is_challenge_seen", leak)
    with pytest.raises(Violation, match=r"entries in Collector\._leak"):
        run_scenario(make_small_scenario(5))


def test_a_store_that_keeps_what_has_expired_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "drop_expired", lambda self, now_s: None)
    with pytest.raises(Violation, match="replica . holds"):
        run_scenario(make_small_scenario(15))


def test_pay_that_the_chain_withholds_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "pay_node", lambda *_: None)
    with pytest.raises(Violation, match="was paid 0"):
        run_scenario(make_scenario({}))


def test_reputation_that_an_honest_node_loses_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = rewards.settle_node

    def lower(runtime, subnet_id, node, agreement):  # type: ignore[no-untyped-def]
        rewards.lower_node(runtime, subnet_id, node.id, ONE // 100)
        return settle(runtime, subnet_id, node, agreement)

    monkeypatch.setattr(rewards, "settle_node", lower)
    with pytest.raises(Violation, match="went from reputation"):
        run_scenario(make_scenario({}))
