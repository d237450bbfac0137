"""Which nodes the proposal of an epoch lists, and what the chain does with a node that it does not.

The chain lowers the reputation of every node of class Included or Validator that is missing in an
agreed proposal by a tenth. Full reputation, exactly one, is what it wants of an Included node
before that becomes Validator, and what it gives back is rounded down: a node that was left out
once as Included stays below one for good and is never paid. So Included nodes are always listed,
and only a Validator can be left out for its silence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from consensus.roster import Roster
from consensus.types import NodeClass, Score, SubnetNodeId

ScoreRows = tuple[tuple[SubnetNodeId, Score], ...]
"""Sorted by node id, without repeats."""


def compute_rows(
    roster: Roster,
    next_roster: Roster,
    *,
    present: Collection[SubnetNodeId],
    left_out: Collection[SubnetNodeId],
    scores: Mapping[SubnetNodeId, Score],
) -> ScoreRows:
    """Return the rows that ``next_roster``'s epoch proposes for ``roster``'s, sorted by node id.

    Listed is every node of class Included or Validator in ``next_roster``, except those of
    ``left_out`` (refuted, or on probation) and the nodes that are Validators in both and are
    not ``present`` (had no accepted record in its epoch). A listed node has its score if it
    was present and at least Included in ``roster``, else 0.

    Where nothing was scored, ``scores`` is empty and every node counts as present.
    """
    former = {node.node_id: node for node in roster.with_class(NodeClass.INCLUDED)}
    rows = []
    for node in next_roster.with_class(NodeClass.INCLUDED):
        node_id = node.node_id
        was = former.get(node_id)
        is_present = node_id in present
        was_validator = was is not None and was.has_class(NodeClass.VALIDATOR, roster.epoch)
        is_validator = node.has_class(NodeClass.VALIDATOR, next_roster.epoch)
        is_silent = was_validator and is_validator and not is_present
        if node_id in left_out or is_silent:
            continue
        earned = scores.get(node_id, 0) if was is not None and is_present else 0
        rows.append((node_id, Score(earned)))
    return tuple(sorted(rows))


def drop_departed(
    rows: ScoreRows,
    *,
    proposed: Sequence[tuple[SubnetNodeId, Score]],
    listed: Collection[SubnetNodeId],
) -> ScoreRows:
    """Return the rows without those that the chain dropped from a proposal.

    The chain drops the row of a node that left before the proposal's block. ``listed`` are the
    nodes, Included at least, in the state in which that block left the chain; a node that left in
    the very block, after the proposal, is in ``proposed`` alone and keeps its row.
    """
    kept = {node_id for node_id, _ in proposed}.union(listed)
    return tuple(row for row in rows if row[0] in kept)
