"""Known defects, put back one at a time: the invariants must catch each within a few seeds.

A suite that lets one of these pass proves nothing. Most are defects of the first prototype of
such a subnet: commitments bound to nobody, windows off by one, float means, salts in memory.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Collection, Sequence
from sqlite3 import Connection
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consensus import admission, agreement, epoch, rows
from consensus.commitment import CommitContext
from consensus.phases import Schedule
from consensus.protocol_params import ConsensusParams
from consensus.records import RecordKind
from consensus.roster import Roster
from keys.envelope import Envelope
from subnet.epoch import submitter
from subnet.epoch.publisher import Publisher
from subnet.journal.journal import Journal
from subnet.simulation.byzantine import Behaviour
from subnet.simulation.invariants import Violation
from subnet.simulation.scenario import FaultFamily
from subnet.simulation.world import run_scenario
from subnet.thread_runner import Runner
from tests.simulation.__main__ import main
from tests.simulation.test_attacks import Lies, make_scenario
from tests.simulation.test_settings import make_sybils

pytestmark = pytest.mark.long

MAX_SEEDS = 8


def catch(lies: Lies | None = None, *, faults: Collection[FaultFamily] = ()) -> str:
    """Return what the first of a few seeds says that breaks an invariant."""
    for seed in range(MAX_SEEDS):
        try:
            run_scenario(make_scenario(lies or {}, seed=seed, faults=faults))
        except Violation as violation:
            assert f"replay: this test with seed {seed}" in str(violation)
            return str(violation)
    pytest.fail(f"{MAX_SEEDS} seeds have not noticed")


def change_departure(
    monkeypatch: pytest.MonkeyPatch, changed: RecordKind, get_first: Callable[[Schedule], int]
) -> None:
    """Let records of one kind leave from another offset on."""
    is_departure = Schedule.is_departure

    def is_changed_departure(self: Schedule, kind: RecordKind, offset: int) -> bool:
        if kind is not changed:
            return is_departure(self, kind, offset)
        first, closed = get_first(self), self.windows[kind].leaves_until
        return bool(first <= offset < closed)

    monkeypatch.setattr(Schedule, "is_departure", is_changed_departure)


def change_last_block(
    monkeypatch: pytest.MonkeyPatch, changed: RecordKind, get_last: Callable[[Schedule], int]
) -> None:
    """Let records of one kind count if they are first seen at another block or before."""
    is_on_time = Schedule.is_on_time
    monkeypatch.setattr(
        Schedule,
        "is_on_time",
        lambda self, kind, offset: (
            offset <= get_last(self) if kind is changed else is_on_time(self, kind, offset)
        ),
    )


def test_a_failing_seed_prints_the_line_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_departure(monkeypatch, RecordKind.OUTPUT_REVEAL, lambda schedule: 9)
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
    change_last_block(monkeypatch, RecordKind.OUTPUT_COMMIT, lambda schedule: schedule.audit_start)
    assert "late earns" in catch({4: {Behaviour.LATE}})


def test_sightings_that_leave_while_reveals_may_arrive_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change_departure(monkeypatch, RecordKind.SIGHTING, lambda schedule: schedule.score_start)
    assert "reveals are open" in catch()


@pytest.mark.parametrize("blocks_early", [1, 3])
def test_reveals_that_leave_while_commits_may_arrive_are_caught(
    monkeypatch: pytest.MonkeyPatch, blocks_early: int
) -> None:
    change_departure(
        monkeypatch,
        RecordKind.OUTPUT_REVEAL,
        lambda schedule: schedule.reveal_start + schedule.grace - blocks_early,
    )
    assert "commits are open" in catch()


def test_a_commitment_that_binds_no_author_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CommitContext, "to_bytes", lambda self: self.network_id + self.epoch.to_bytes(4, "little")
    )
    assert "copy earns" in catch({4: {Behaviour.COPY}})


def test_a_commit_that_is_published_before_it_is_journaled_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def issue(
        self: Any,
        roster: Roster,
        kind: RecordKind,
        body: bytes,
        *,
        reveal: tuple[RecordKind, bytes] | None = None,
    ) -> None:
        record = self._author.seal(kind, roster, body)
        await self._store.publish(record.key, record.to_bytes(), record.expires_at)
        opening = None if reveal is None else self._author.seal(reveal[0], roster, reveal[1])
        await self._journal.record_signed(record, opening)

    monkeypatch.setattr(Publisher, "issue", issue)
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
    assert "lost its record" in catch(faults={FaultFamily.CRASH})


def test_rows_in_another_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = rows.compute_rows
    monkeypatch.setattr(epoch, "compute_rows", lambda *a, **kw: tuple(reversed(compute(*a, **kw))))
    assert "are not sorted by id" in catch()


def test_a_mean_of_floats_in_the_order_of_a_machine_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = random.Random(1)

    def compute_distances(
        residuals: NDArray[np.int64],
        valid: NDArray[np.bool_],
        votes: Sequence[int],
        params: ConsensusParams,
    ) -> dict[int, int]:
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
    class Agreement(agreement._Agreement):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.valid = np.ones_like(self.valid)
            self._is_enough = False

    monkeypatch.setattr(agreement, "_Agreement", Agreement)
    assert "int8 earns" in catch({4: {Behaviour.INT8}})


def test_a_vote_for_each_node_of_a_coldkey_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "choose_votes", lambda rows, voiceless: list(range(len(rows))))
    with pytest.raises(Violation, match="honest node 1 gets 0"):
        run_scenario(make_sybils())


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
