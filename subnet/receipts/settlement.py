"""What the chain says of an epoch now: where it contradicts the evidence, and what was paid."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, SubnetNodeId


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the chain paid and took when it settled the proposal, in ``block``.

    Amounts are units of 10^-18 TENSOR. ``paid`` is what the node got beside ``proposing``, the
    reward for its proposal; that is None if it made none. ``unpaid`` says why it got nothing.
    ``reputation`` is its reputation before and after, 10^18 is one; None if it did not change.
    ``shortfall`` is why the epoch paid at most its proposer.
    """

    block: BlockNumber
    paid: int
    unpaid: str | None
    slashed: int
    reputation: tuple[int, int] | None
    shortfall: str | None
    proposing: int | None


@dataclass(frozen=True, slots=True)
class ChainAnswer:
    """What the chain says: ``differences`` from the evidence, and what it no longer keeps."""

    differences: tuple[str, ...]
    unchecked: tuple[str, ...]
    settlement: Settlement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """What the chain alone says of a node's score in ``epoch``: nothing is computed again."""

    epoch: Epoch
    node_id: SubnetNodeId
    elected: SubnetNodeId | None
    submission: Submission | None
    min_attestation: int
    answer: ChainAnswer
