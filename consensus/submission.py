"""The proposal of one epoch and its attestations, as the chain holds them."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import BlockNumber, Score, SubnetNodeId


@dataclass(frozen=True, slots=True)
class Submission:
    """One proposal and its attestations, as SubnetConsensusSubmission holds them.

    ``attested`` are subnet node ids; the proposer is among them.
    """

    proposer: SubnetNodeId
    block: BlockNumber
    scores: tuple[tuple[SubnetNodeId, Score], ...]
    attested: frozenset[SubnetNodeId]
    args: bytes | None
