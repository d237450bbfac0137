"""Who is to be probed: the hosters whose output commit of the last two epochs this node has."""

from __future__ import annotations

from collections.abc import Mapping

from consensus.records import RecordKind, decode_output_commit
from consensus.types import Epoch, NodeClass, SubnetNodeId
from keys.peer import PeerId
from subnet.epoch.rosters import Rosters
from subnet.journal.journal import Journal
from subnet.probing.prober import ProbeTarget


def is_validator(rosters: Rosters, own: PeerId) -> bool:
    """Whether the node is of class Validator in the newest roster."""
    roster = rosters.get_newest_roster()
    if roster is None:
        return False
    return any(node.peer_id == own for node in roster.with_class(NodeClass.VALIDATOR))


def list_targets(
    rosters: Rosters, journal: Journal, *, own: PeerId, num_layers: int
) -> Mapping[SubnetNodeId, ProbeTarget]:
    """Return the hosters of the newest roster, each with the layers it committed to last.

    What counts is the commit, not the announcement: a node that is paid for layers which it
    announces to no client serves no client.
    """
    roster = rosters.get_newest_roster()
    if roster is None:
        return {}
    targets = {}
    for epoch in (Epoch(roster.epoch - 1), roster.epoch):
        for (kind, node_id), record in journal.get_timed_records(epoch).items():
            node = roster.get_by_id(node_id)
            if kind is not RecordKind.OUTPUT_COMMIT or node is None or node.peer_id is None:
                continue
            layers = decode_output_commit(record.envelope.body).layers
            if node.peer_id != own and layers.end <= num_layers:
                targets[node_id] = ProbeTarget(node_id, node.peer_id, layers)
    return targets
