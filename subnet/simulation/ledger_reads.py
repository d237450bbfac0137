"""Reads of the ledger's state as the types that a chain client returns."""

from __future__ import annotations

from functools import lru_cache

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from devchain import storage
from devchain.chain_types import SubnetNode, SubnetState
from devchain.ledger import Ledger
from devchain.state import StateReader
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.epoch.interfaces import SubnetInfo


def _reader(ledger: Ledger, at_block: int | None) -> StateReader:
    return ledger.state if at_block is None else ledger.state.at(at_block)


def read_subnet(
    ledger: Ledger, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
) -> SubnetInfo | None:
    """Return the subnet as it was when ``at_block`` ended, now by default."""
    state = _reader(ledger, at_block)
    subnet = state.find(storage.SUBNETS_DATA, subnet_id)
    if subnet is None:
        return None
    return SubnetInfo(
        subnet_id=subnet_id,
        name=subnet.name.decode(errors="replace"),
        is_active=subnet.state is SubnetState.ACTIVE,
        slot=state.find(storage.SUBNET_SLOT, subnet_id),
        start_epoch=subnet.start_epoch,
        misc=subnet.misc.decode(errors="replace"),
    )


def read_nodes(
    ledger: Ledger, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
) -> tuple[RosterNode, ...]:
    """Return the activated nodes, sorted by id."""
    state = _reader(ledger, at_block)
    nodes = (node for _, node in state.items(storage.SUBNET_NODES_DATA, subnet_id))
    return tuple(_roster_node(state, node) for node in nodes)


def _roster_node(state: StateReader, node: SubnetNode) -> RosterNode:
    return RosterNode(
        node_id=SubnetNodeId(node.id),
        peer_id=_parse_peer_id(node.peer_info.peer_id),
        coldkey=state.get(storage.HOTKEY_OWNER, node.hotkey),
        hotkey=node.hotkey,
        node_class=node.classification.node_class,
        start_epoch=Epoch(node.classification.start_epoch),
    )


@lru_cache(maxsize=1024)
def _parse_peer_id(text: bytes) -> PeerId | None:
    try:
        return PeerId.from_base58(text.decode("ascii"))
    except (BadPeerId, UnicodeDecodeError):
        return None


def read_elected_validator(
    ledger: Ledger, subnet_id: SubnetId, epoch: Epoch
) -> SubnetNodeId | None:
    """Return the node that was elected for the subnet epoch."""
    elected = ledger.state.find(storage.SUBNET_ELECTED_VALIDATOR, subnet_id, epoch)
    return None if elected is None else SubnetNodeId(elected)


def read_submission(
    ledger: Ledger, subnet_id: SubnetId, epoch: Epoch, *, at_block: BlockNumber | None = None
) -> Submission | None:
    """Return the subnet epoch's proposal and its attestors so far."""
    data = _reader(ledger, at_block).find(storage.SUBNET_CONSENSUS_SUBMISSION, subnet_id, epoch)
    if data is None:
        return None
    return Submission(
        proposer=SubnetNodeId(data.validator_id),
        block=BlockNumber(data.block),
        scores=tuple((SubnetNodeId(row.subnet_node_id), Score(row.score)) for row in data.data),
        attested=frozenset(SubnetNodeId(node_id) for node_id in data.attests),
        args=data.args,
        voters=frozenset(
            SubnetNodeId(node.id)
            for node in data.subnet_nodes
            if node.classification.node_class is NodeClass.VALIDATOR
        ),
        prioritize_queue_node_id=_as_node_id(data.prioritize_queue_node_id),
        remove_queue_node_id=_as_node_id(data.remove_queue_node_id),
    )


def read_min_attestation_percent(ledger: Ledger, *, at_block: BlockNumber | None = None) -> int:
    """Return MinAttestationPercentage; 10**18 is one."""
    return int(_reader(ledger, at_block).get(storage.MIN_ATTESTATION_PERCENTAGE))


def _as_node_id(value: int | None) -> SubnetNodeId | None:
    return None if value is None else SubnetNodeId(value)
