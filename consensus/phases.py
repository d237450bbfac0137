"""Which phase of the epoch a block belongs to, and when each kind of record leaves and counts.

Phases are half-open intervals of block offsets, so every block has exactly one.
Boundaries are ``ceil(percent * length / 100)``, in integers: a float percentage
can land on either side of a boundary. The table in ``_compute_windows`` holds all
times of records; every rule about them reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from consensus.protocol_params import ConsensusParams, compute_grace
from consensus.records import REVEAL_KINDS, RecordKind
from consensus.types import EpochPosition

BLOCKS_TO_LAND = 3
"""The shortest life of an extrinsic is four blocks: the head's, and three in which it may land."""


class Phase(Enum):
    PROPOSE = "propose"
    COMMIT = "commit"
    AUDIT = "audit"
    REVEAL = "reveal"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class RecordWindow:
    """The times of one kind of record, as offsets in the epoch; every ``until`` is excluded.

    A record leaves its author in ``[leaves_from, leaves_until)``, counts at a node that first
    sees it before ``counts_until``, and is read in ``[read_from, read_until)``.
    """

    leaves_from: int
    leaves_until: int
    counts_until: int
    read_from: int
    read_until: int


@dataclass(frozen=True)
class Schedule:
    """The offsets of one epoch length, worked out once."""

    length: int
    grace: int
    challenge_fallback: int
    finality_deadline: int
    commit_start: int
    audit_start: int
    reveal_start: int
    score_start: int
    attestation_deadline: int
    windows: Mapping[RecordKind, RecordWindow]

    @property
    def last_proposal(self) -> int:
        """The last head at which a proposal is signed: it lands by the attestation deadline."""
        return self.attestation_deadline - BLOCKS_TO_LAND

    @property
    def last_attestation(self) -> int:
        """The last head at which an attestation is signed: it can land in the epoch."""
        return self.length - 2

    def is_departure(self, kind: RecordKind, offset: int) -> bool:
        """Whether a record of this kind may leave its author at this head."""
        window = self.windows[kind]
        return window.leaves_from <= offset < window.leaves_until

    def is_departure_again(self, kind: RecordKind, offset: int) -> bool:
        """Whether a record that is signed already may be published again at this head.

        That is as long as it can count somewhere: it tells nothing new, and the replicas that
        held it may be gone.
        """
        window = self.windows[kind]
        return window.leaves_from <= offset < max(window.leaves_until, window.counts_until)

    def is_on_time(self, kind: RecordKind, first_seen_offset: int) -> bool:
        """Whether a record of this kind that a node first sees at this head counts there."""
        return first_seen_offset < self.windows[kind].counts_until

    def is_read(self, kind: RecordKind, offset: int) -> bool:
        """Whether records of this kind are read at this head."""
        window = self.windows[kind]
        return window.read_from <= offset < window.read_until

    def list_read(self, offset: int) -> tuple[RecordKind, ...]:
        """Return the kinds of records that are read at this head."""
        return self._kinds_read[offset]

    @cached_property
    def reveal_offsets(self) -> frozenset[int]:
        """The heads at which a reveal of any kind may leave."""
        return frozenset(
            offset
            for offset in range(self.length)
            if any(self.is_departure(kind, offset) for kind in REVEAL_KINDS)
        )

    @cached_property
    def _kinds_read(self) -> tuple[tuple[RecordKind, ...], ...]:
        return tuple(
            tuple(kind for kind in self.windows if self.is_read(kind, offset))
            for offset in range(self.length)
        )


def compute_boundary(percent: int, length: int) -> int:
    """Return ``ceil(percent * length / 100)``."""
    return -(-percent * length // 100)


def compute_schedule(length: int, params: ConsensusParams) -> Schedule:
    """Return the phase offsets of an epoch of ``length`` blocks.

    Raises ValueError if the epoch is too short for the grace to fit.
    """
    grace = compute_grace(length)
    commit_start = compute_boundary(params.commit_start_percent, length)
    audit_start = compute_boundary(params.audit_start_percent, length)
    reveal_start = compute_boundary(params.reveal_start_percent, length)
    score_start = compute_boundary(params.score_start_percent, length)
    return Schedule(
        length=length,
        grace=grace,
        challenge_fallback=compute_boundary(params.challenge_fallback_percent, length),
        finality_deadline=compute_boundary(params.finality_deadline_percent, length),
        commit_start=commit_start,
        audit_start=audit_start,
        reveal_start=reveal_start,
        score_start=score_start,
        attestation_deadline=compute_boundary(params.attestation_deadline_percent, length),
        windows=_compute_windows(
            commit_start, audit_start, reveal_start, score_start, g=grace, end=length
        ),
    )


def _compute_windows(
    c: int, a: int, b: int, r: int, *, g: int, end: int
) -> Mapping[RecordKind, RecordWindow]:
    """Return the table of section 1 of docs/protocol.md.

    COMMIT is ``[c, a)``, AUDIT ``[a, b)``, REVEAL ``[b, r)``, the epoch ends at ``end``, and ``g``
    is the grace. A record that leaves a grace before its cut-off is in time at every node. Records
    that come too late are read for a grace too, so that reports can say so. No commit that counts
    can be later than the draw of the audited layers, and no audit commit that counts later than
    any reveal's departure. A sighting that comes late can still be named; only its score
    commitment does not count.
    """
    # fmt: off
    times = {
        #                          leaves from, until    counts until  is read from, until
        RecordKind.CHALLENGE:     (0,           a - g,   a,            0,            a),
        RecordKind.OUTPUT_COMMIT: (c,           a - g,   a,            c,            a + g),
        RecordKind.AUDIT_COMMIT:  (a + 1,       b - g,   b,            a + 1,        b + g),
        RecordKind.OUTPUT_REVEAL: (b + g,       r + 1,   r + g,        b + g,        r + 2 * g),
        RecordKind.AUDIT_REVEAL:  (b + g,       r + 1,   r + g,        b + g,        r + 2 * g),
        RecordKind.SCORE_REVEAL:  (b + g,       r + 1,   r + g,        b + g,        r + 2 * g),
        RecordKind.SIGHTING:      (r + g,       end - g, r + 3 * g,    r + g,        end),
        # Fetched when the proposal names it.
        RecordKind.NAMED_LIST:    (0,           end,     end,          end,          end),
    }
    # fmt: on
    return {kind: RecordWindow(*offsets) for kind, offsets in times.items()}


def phase_at(position: EpochPosition, schedule: Schedule) -> Phase:
    """Return the phase that ``position`` falls in."""
    if position.offset < schedule.commit_start:
        return Phase.PROPOSE
    if position.offset < schedule.audit_start:
        return Phase.COMMIT
    if position.offset < schedule.reveal_start:
        return Phase.AUDIT
    if position.offset < schedule.score_start:
        return Phase.REVEAL
    return Phase.SCORE


def get_phase_end(phase: Phase, schedule: Schedule) -> int:
    """Return the first offset after ``phase``."""
    return {
        Phase.PROPOSE: schedule.commit_start,
        Phase.COMMIT: schedule.audit_start,
        Phase.AUDIT: schedule.reveal_start,
        Phase.REVEAL: schedule.score_start,
        Phase.SCORE: schedule.length,
    }[phase]
