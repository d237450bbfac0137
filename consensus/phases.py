"""Which phase of the epoch a block belongs to, and what may leave or count when.

Phases are half-open intervals of block offsets, so every block has exactly one.
Boundaries are ``ceil(percent * length / 100)``, in integers: a float percentage
can land on either side of a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consensus.protocol_params import ConsensusParams, compute_grace
from consensus.types import EpochPosition


class Phase(Enum):
    PROPOSE = "propose"
    COMMIT = "commit"
    REVEAL = "reveal"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The offsets of one epoch length, worked out once. All half-open."""

    length: int
    grace: int
    challenge_fallback: int
    finality_deadline: int
    commit_start: int
    reveal_start: int
    score_start: int

    def is_commit_departure(self, offset: int) -> bool:
        """Whether an output commit may still leave a node at this head."""
        return self.commit_start <= offset < self.reveal_start - self.grace

    def is_commit_on_time(self, first_seen_offset: int) -> bool:
        """Whether an output commit first seen at this head counts."""
        return first_seen_offset < self.reveal_start

    def is_reveal_departure(self, offset: int) -> bool:
        """Whether a reveal may leave a node: no accepted commit can be later than this."""
        return self.reveal_start + self.grace <= offset

    def is_reveal_on_time(self, first_seen_offset: int) -> bool:
        """Whether a reveal first seen at this head counts."""
        return first_seen_offset < self.scoring_start

    @property
    def scoring_start(self) -> int:
        """First offset at which the set of reveals is closed."""
        return self.score_start + self.grace

    @property
    def sighting_end(self) -> int:
        """First offset at which score commits leave: sightings had two graces to arrive."""
        return self.scoring_start + 2 * self.grace

    @property
    def score_commit_end(self) -> int:
        """A score commit or sighting counts if first seen before this offset, the last block."""
        return self.length - 1


def compute_boundary(percent: int, length: int) -> int:
    """Return ``ceil(percent * length / 100)``."""
    return -(-percent * length // 100)


def compute_schedule(length: int, params: ConsensusParams) -> Schedule:
    """Return the phase offsets of an epoch of ``length`` blocks.

    Raises ValueError if the epoch is too short for the grace to fit.
    """
    return Schedule(
        length=length,
        grace=compute_grace(length),
        challenge_fallback=compute_boundary(params.challenge_fallback_percent, length),
        finality_deadline=compute_boundary(params.finality_deadline_percent, length),
        commit_start=compute_boundary(params.commit_start_percent, length),
        reveal_start=compute_boundary(params.reveal_start_percent, length),
        score_start=compute_boundary(params.score_start_percent, length),
    )


def phase_at(position: EpochPosition, schedule: Schedule) -> Phase:
    """Return the phase that ``position`` falls in."""
    if position.offset < schedule.commit_start:
        return Phase.PROPOSE
    if position.offset < schedule.reveal_start:
        return Phase.COMMIT
    if position.offset < schedule.score_start:
        return Phase.REVEAL
    return Phase.SCORE
