"""Placeholder, replaced on merge."""

from collections.abc import Collection, Mapping, Sequence

from consensus.roster import Roster
from consensus.types import NodeClass, Score, SubnetNodeId

ScoreRows = tuple[tuple[SubnetNodeId, Score], ...]


def compute_rows(
    roster: Roster,
    next_roster: Roster,
    *,
    present: Collection[SubnetNodeId],
    left_out: Collection[SubnetNodeId],
    scores: Mapping[SubnetNodeId, Score],
) -> ScoreRows:
    rows = []
    for node in sorted(next_roster.with_class(NodeClass.INCLUDED), key=lambda n: n.node_id):
        before = next((n for n in roster.nodes if n.node_id == node.node_id), None)
        was_validator = before is not None and before.has_class(NodeClass.VALIDATOR, roster.epoch)
        is_validator = node.has_class(NodeClass.VALIDATOR, next_roster.epoch)
        is_silent = is_validator and was_validator and node.node_id not in present
        if node.node_id not in left_out and not is_silent:
            rows.append((node.node_id, scores.get(node.node_id, Score(0))))
    return tuple(rows)


def drop_departed(
    rows: ScoreRows,
    *,
    proposed: Sequence[tuple[SubnetNodeId, Score]],
    listed: Collection[SubnetNodeId],
) -> ScoreRows:
    kept = {node_id for node_id, _ in proposed}.union(listed)
    return tuple(row for row in rows if row[0] in kept)
