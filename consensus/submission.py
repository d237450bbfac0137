"""The proposal of one epoch and its attestations, as the chain holds them."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import BlockNumber, Score, SubnetNodeId


@dataclass(frozen=True, slots=True)
class Submission:
    """One proposal and its attestations, as SubnetConsensusSubmission holds them.

    ``attested`` are subnet node ids; the proposer is among them. ``voters`` are the nodes of class
    Validator when it was proposed: those that the chain counts attestations against.
    ``prioritize_queue_node_id`` and ``remove_queue_node_id`` name a queued node that the proposer
    wants activated first or removed; the chain stores None for an id that is not in the queue.
    """

    proposer: SubnetNodeId
    block: BlockNumber
    scores: tuple[tuple[SubnetNodeId, Score], ...]
    attested: frozenset[SubnetNodeId]
    args: bytes | None
    voters: frozenset[SubnetNodeId] = frozenset()
    prioritize_queue_node_id: SubnetNodeId | None = None
    remove_queue_node_id: SubnetNodeId | None = None
