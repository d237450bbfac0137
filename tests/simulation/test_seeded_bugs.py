"""Known defects, put back one at a time: the invariants must catch each within a few seeds.

A suite that lets one of these pass proves nothing. Most are defects of the first prototype of
such a subnet: commitments bound to nobody, windows off by one, float means, salts in memory.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Collection, Sequence
from sqlite3 import Connection
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consensus import admission, agreement, scoring
from consensus.commitment import CommitContext
from consensus.phases import Schedule
from consensus.protocol_params import ConsensusParams
from consensus.types import Epoch
from keys.envelope import Envelope
from subnet.epoch import judge, submitter
from subnet.epoch.performer import Performer
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner
from tests.simulation.__main__ import main
from tests.simulation.byzantine import Behaviour
from tests.simulation.invariants import Violation
from tests.simulation.scenario import Fault
from tests.simulation.test_attacks import Lies, make_scenario
from tests.simulation.world import run_scenario

MAX_SEEDS = 8


def catch(lies: Lies | None = None, *, faults: Collection[Fault] = ()) -> str:
    """Return what the first of a few seeds says that breaks an invariant."""
    for seed in range(MAX_SEEDS):
        try:
            run_scenario(make_scenario(lies or {}, seed=seed, faults=faults))
        except Violation as violation:
            assert f"replay: this test with seed {seed}" in str(violation)
            return str(violation)
    pytest.fail(f"{MAX_SEEDS} seeds have not noticed")


def test_a_failing_seed_prints_the_line_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Schedule, "is_reveal_departure", lambda self, offset: offset >= 9)
    first = ["--seed", "5", "--epochs", "3", "--quiet"]
    assert main(first) == 1
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("replay: "))
    command = shlex.split(line.removeprefix("replay: "))
    assert command[:3] == ["python", "-m", "tests.simulation"]
    assert main([*command[3:], "--quiet"]) == 1
    assert capsys.readouterr().err == said


def test_a_commit_window_that_is_one_block_too_long_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Schedule, "is_commit_on_time", lambda self, o: o <= self.reveal_start)
    assert "counts with a commit of block" in catch({4: {Behaviour.LATE}})


def test_a_reveal_window_that_never_closes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "is_reveal_on_time", lambda self, o: True)
    assert "counts with a reveal of block" in catch({4: {Behaviour.LATE_REVEAL}})


@pytest.mark.parametrize("blocks_early", [1, 3])
def test_reveals_that_leave_while_commits_may_arrive_are_caught(
    monkeypatch: pytest.MonkeyPatch, blocks_early: int
) -> None:
    def is_departure(self: Schedule, offset: int) -> bool:
        return offset >= self.reveal_start + self.grace - blocks_early

    monkeypatch.setattr(Schedule, "is_reveal_departure", is_departure)
    assert "commits are open" in catch()


def test_a_commitment_that_binds_no_author_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CommitContext, "to_bytes", lambda self: self.network_id + self.epoch.to_bytes(4, "little")
    )
    assert "copy earns" in catch({4: {Behaviour.COPY}})


def test_a_commit_that_is_published_before_it_is_journaled_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def commit_output(self: Any, epoch: Epoch) -> None:
        roster = self._journal.rosters[epoch]
        commit, reveal = await self._hoster.answer(roster, self._world.get_inference())
        await self._world.store.publish(commit.key, commit.to_bytes(), commit.expires_at)
        await self._journal.record_signed(commit, reveal)

    monkeypatch.setattr(Performer, "_commit_output", commit_output)
    assert "before it is in the journal" in catch()


def test_a_reveal_that_is_kept_in_memory_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    record_signed = Journal.record_signed
    monkeypatch.setattr(
        Journal, "record_signed", lambda self, record, reveal=None: record_signed(self, record)
    )
    assert "the journal cannot open it" in catch()


def test_a_journal_that_is_not_read_after_a_restart_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Journal.load

    def forgetful_load(connection: Connection, *, owner: bytes, run: Runner) -> Journal:
        journal = load(connection, owner=owner, run=run)
        journal._own.clear()
        return journal

    monkeypatch.setattr(Journal, "load", forgetful_load)
    assert "lost its record" in catch(faults={Fault.CRASH})


def test_rows_in_another_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = scoring.compute_proposal_rows
    monkeypatch.setattr(
        judge, "compute_proposal_rows", lambda *a, **kw: tuple(reversed(compute(*a, **kw)))
    )
    assert "are not sorted by id" in catch()


def test_a_mean_of_floats_in_the_order_of_a_machine_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = random.Random(1)

    def compute_distances(
        residuals: NDArray[np.int64], votes: Sequence[int], params: ConsensusParams
    ) -> dict[int, int]:
        valid = agreement.compute_valid_rows(residuals, votes, params)
        rows = [row for row in votes if valid[row]]
        order.shuffle(rows)  # What threads, vector units and libraries do.
        outputs = (1 + residuals / 2**params.residual_bits).astype(np.float32)
        mean = np.zeros(outputs.shape[1], dtype=np.float32)
        for row in rows:
            mean += outputs[row] / np.float32(len(rows))
        return {
            row: int(float(np.linalg.norm(outputs[row] - mean)) * agreement.DISTANCE_ONE)
            for row in np.flatnonzero(valid).tolist()
        }

    monkeypatch.setattr(agreement, "compute_distances", compute_distances)
    violation = catch()
    assert "Unstable" in violation or "unlike another" in violation


def test_a_plain_mean_that_a_minority_can_steer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        agreement,
        "compute_valid_rows",
        lambda residuals, _votes, _params: np.ones(len(residuals), dtype=np.bool_),
    )
    assert "int8 earns" in catch({4: {Behaviour.INT8}})


def test_attesting_without_looking_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitter, "check_proposal", lambda _own, _proposed: None)
    liars = {1: {Behaviour.BAD_PROPOSAL}, 7: {Behaviour.BAD_PROPOSAL}}
    assert "what it did not compute" in catch(liars)


def test_replicas_that_let_a_later_expiry_replace_a_record_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "_check_expiry", lambda *_: None)
    assert "was replaced" in catch({4: {Behaviour.FORGE}, 7: {Behaviour.FORGE}})


def test_signatures_that_nobody_verifies_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Envelope, "check_signature", lambda self: None)
    assert "is not what node" in catch({4: {Behaviour.FORGE}, 7: {Behaviour.FORGE}})
