"""Errors about records of peers and about proposals.

ConsensusError
├── InvalidRecord(reason)   a record that does not count (the author's fault)
│   ├── InvalidVector       an output that is not a bounded vector of the right length
│   └── CommitmentMismatch  a reveal that does not open its commitment
├── ProposalMismatch        the elected validator proposed other than this node computed
└── ScorerFailed            the subnet's own scorer gave no scores

``reason`` has one stable name per cause, the same in logs, tests and on status pages.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record does not count."""

    WRONG_SIZE = "wrong_size"
    MALFORMED = "malformed"
    WRONG_NETWORK = "wrong_network"
    WRONG_KIND = "wrong_kind"
    WRONG_AUTHOR = "wrong_author"
    WRONG_KEY = "wrong_key"
    WRONG_EXPIRY = "wrong_expiry"
    UNKNOWN_EPOCH = "unknown_epoch"
    NOT_IN_ROSTER = "not_in_roster"
    BAD_SIGNATURE = "bad_signature"
    EQUIVOCATION = "equivocation"
    LATE = "late"
    WRONG_SEED = "wrong_seed"
    WRONG_RANGE = "wrong_range"
    NO_COMMIT = "no_commit"
    NOT_REVEALED = "not_revealed"
    COMMITMENT_MISMATCH = "commitment_mismatch"
    INVALID_VECTOR = "invalid_vector"
    OUTSIDE_TOLERANCE = "outside_tolerance"
    NO_MAJORITY = "no_majority"
    INVALID_SCORES = "invalid_scores"
    WRONG_TAG = "wrong_tag"
    WRONG_DRAW = "wrong_draw"
    REFUTED = "refuted"
    WITHHELD = "withheld"
    ON_PROBATION = "on_probation"
    NOT_SERVING = "not_serving"


class ConsensusError(Exception):
    """Base of every error of the consensus package."""


class InvalidRecord(ConsensusError):
    """A record does not count. ``reason`` names the cause, ``detail`` says more."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class InvalidVector(InvalidRecord):
    """An output is not a bounded, finite vector of the right length."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.INVALID_VECTOR, detail)


class CommitmentMismatch(InvalidRecord):
    """A reveal does not open the commitment that its author published."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.COMMITMENT_MISMATCH, detail)


class ProposalMismatch(ConsensusError):
    """A proposal that this node does not attest; the text says why."""


class ScorerFailed(ConsensusError):
    """The subnet's own scorer gave no scores; the text says why."""
