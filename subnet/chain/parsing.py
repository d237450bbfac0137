"""Parses the chain's decoded values into the node's own types.

Byte strings arrive as hexadecimal text, account ids as hexadecimal text or a
one-element tuple of it, maps as lists of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consensus.roster import RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from keys.errors import BadPeerId
from keys.peer import PeerId
from subnet.epoch.interfaces import SubnetInfo
from subnet.errors import ChainMismatch, ChainUnavailable

NO_ACCOUNT = bytes(20)
MAX_NODE_ID = 2**32 - 1

_CLASSES = {
    "Registered": NodeClass.REGISTERED,
    "Idle": NodeClass.IDLE,
    "Included": NodeClass.INCLUDED,
    "Validator": NodeClass.VALIDATOR,
}


def parse_bytes(value: Any) -> bytes:
    """Return the bytes of hexadecimal text or of a wrapper around it. Raises ChainMismatch."""
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ChainMismatch(f"the chain sent {type(value).__name__} where bytes belong")
    return bytes.fromhex(value[2:])


def parse_text(value: Any) -> str:
    """Return bytes as text; what is not UTF-8 shows as replacement characters."""
    return parse_bytes(value).decode("utf-8", errors="replace")


def parse_peer_id(value: Any) -> PeerId | None:
    """Return the peer id that the chain holds as text; None if it is not Ed25519."""
    try:
        return PeerId.from_base58(parse_text(value))
    except BadPeerId:
        return None


def parse_class(value: Any) -> NodeClass:
    """Return the node class. Raises ChainMismatch for one that this client does not know."""
    try:
        return _CLASSES[str(value)]
    except KeyError:
        raise ChainMismatch(f"the chain has a node class {value!r}, unknown here") from None


def parse_roster_node(fields: Mapping[str, Any], *, hotkey: Any, coldkey: Any) -> RosterNode:
    """Return a node from a SubnetNode struct; its keys are stored under other items."""
    classification = fields["classification"]
    return RosterNode(
        node_id=SubnetNodeId(fields["id"]),
        peer_id=parse_peer_id(fields["peer_info"]["peer_id"]),
        coldkey=NO_ACCOUNT if coldkey is None else parse_bytes(coldkey),
        hotkey=NO_ACCOUNT if hotkey is None else parse_bytes(hotkey),
        node_class=parse_class(classification["node_class"]),
        start_epoch=Epoch(classification["start_epoch"]),
    )


def parse_subnet(fields: Mapping[str, Any], *, slot: int | None) -> SubnetInfo:
    """Return a subnet from a SubnetData struct and its slot."""
    return SubnetInfo(
        subnet_id=SubnetId(fields["id"]),
        name=parse_text(fields["name"]),
        is_active=str(fields["state"]) == "Active",
        slot=slot,
        start_epoch=fields["start_epoch"],
        misc=parse_text(fields["misc"]),
    )


def parse_submission(fields: Mapping[str, Any]) -> Submission:
    """Return a submission from a ConsensusData struct.

    Raises ChainUnavailable for a struct that lacks a field, or holds another shape in it: the
    endpoint is left for the next one.
    """
    try:
        args = fields["args"]
        return Submission(
            proposer=_parse_node_id(fields["validator_id"], "validator_id"),
            block=BlockNumber(fields["block"]),
            scores=tuple(
                (SubnetNodeId(row["subnet_node_id"]), Score(row["score"])) for row in fields["data"]
            ),
            attested=frozenset(SubnetNodeId(node_id) for node_id, _ in fields["attests"]),
            args=None if args is None else parse_bytes(args),
            voters=frozenset(
                SubnetNodeId(node["id"])
                for node in fields["subnet_nodes"]
                if parse_class(node["classification"]["node_class"]) is NodeClass.VALIDATOR
            ),
            prioritize_queue_node_id=_parse_optional_id(fields, "prioritize_queue_node_id"),
            remove_queue_node_id=_parse_optional_id(fields, "remove_queue_node_id"),
        )
    except KeyError as error:
        raise ChainUnavailable(f"the endpoint sent a proposal without {error.args[0]}") from error
    except (TypeError, ValueError, ChainMismatch) as error:
        raise ChainUnavailable(f"the endpoint sent a proposal of another shape: {error}") from error


def _parse_optional_id(fields: Mapping[str, Any], name: str) -> SubnetNodeId | None:
    value = fields[name]
    return None if value is None else _parse_node_id(value, name)


def _parse_node_id(value: Any, name: str) -> SubnetNodeId:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NODE_ID:
        raise ValueError(f"{value!r:.40} as {name}, where a node id belongs")
    return SubnetNodeId(value)
