"""Who belongs to the subnet in one epoch: the chain's state at the epoch's first block."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from consensus.types import BlockNumber, Epoch, NodeClass, SubnetId, SubnetNodeId
from keys.peer import PeerId

NETWORK_ID_TAG = b"mesh/net"


@dataclass(frozen=True, slots=True)
class RosterNode:
    """One registered node.

    ``coldkey`` and ``hotkey`` are 20-byte account ids. ``peer_id`` is None when the
    chain names a peer id that is not Ed25519: such a node can own no record.
    """

    node_id: SubnetNodeId
    peer_id: PeerId | None
    coldkey: bytes
    hotkey: bytes
    node_class: NodeClass
    start_epoch: Epoch

    def has_class(self, wanted: NodeClass, epoch: Epoch) -> bool:
        """Whether the node is of at least this class in ``epoch``, as the pallet decides it."""
        return self.node_class >= wanted and self.start_epoch <= epoch


@dataclass(frozen=True)
class Roster:
    """The nodes of one epoch, sorted by id, with the anchor of the epoch's times and seed.

    ``block_hash`` and ``timestamp_s`` (whole seconds) are those of the epoch's first
    block, read once it was finalised.
    """

    epoch: Epoch
    first_block: BlockNumber
    block_hash: bytes
    timestamp_s: int
    nodes: tuple[RosterNode, ...]

    def get_by_id(self, node_id: SubnetNodeId) -> RosterNode | None:
        """Return the node with this id, if there is one."""
        return self._by_id.get(node_id)

    def with_class(self, wanted: NodeClass) -> tuple[RosterNode, ...]:
        """Return the nodes of at least this class in the roster's epoch."""
        return self._by_class[wanted]

    @cached_property
    def ids(self) -> frozenset[SubnetNodeId]:
        """The ids of all nodes, of whatever class."""
        return frozenset(self._by_id)

    @cached_property
    def validators(self) -> frozenset[SubnetNodeId]:
        """The ids of the Validator-class nodes."""
        return frozenset(node.node_id for node in self.with_class(NodeClass.VALIDATOR))

    @cached_property
    def _by_id(self) -> Mapping[SubnetNodeId, RosterNode]:
        # Of two nodes with one id the first counts.
        return {node.node_id: node for node in reversed(self.nodes)}

    @cached_property
    def _by_class(self) -> Mapping[NodeClass, tuple[RosterNode, ...]]:
        return {
            wanted: tuple(node for node in self.nodes if node.has_class(wanted, self.epoch))
            for wanted in NodeClass
        }


def compute_network_id(genesis_hash: bytes, subnet_id: SubnetId, manifest_hash: bytes) -> bytes:
    """Return the 32 bytes that bind every signature to one chain, subnet and model."""
    if len(genesis_hash) != 32 or len(manifest_hash) != 32:
        raise ValueError("genesis hash and manifest hash have 32 bytes")
    message = NETWORK_ID_TAG + genesis_hash + subnet_id.to_bytes(4, "little") + manifest_hash
    return hashlib.sha256(message).digest()
