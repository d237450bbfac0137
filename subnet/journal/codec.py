"""Encodes and decodes what the rows of the journal hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from consensus.evidence import TimedRecord
from consensus.missed import OwedDuty
from consensus.roster import Roster, RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetNodeId
from keys.envelope import Envelope, decode_envelope
from keys.peer import PeerId
from subnet.journal.log import Event, EventType

_SEEN_AT = struct.Struct("<I")


def encode_signed(envelope: Envelope) -> Event:
    slot = f"{envelope.kind}/{envelope.epoch}"
    return Event(envelope.epoch, EventType.SIGNED, envelope.to_bytes(), slot)


def encode_timed_record(sighting: TimedRecord) -> Event:
    payload = _SEEN_AT.pack(sighting.seen_at) + sighting.envelope.to_bytes()
    return Event(sighting.envelope.epoch, EventType.SIGHTED, payload)


def decode_timed_record(payload: bytes) -> TimedRecord:
    (seen_at,) = _SEEN_AT.unpack_from(payload)
    return TimedRecord(decode_envelope(payload[_SEEN_AT.size :]), BlockNumber(seen_at))


def encode_fetched(envelope: Envelope) -> Event:
    return Event(envelope.epoch, EventType.FETCHED, envelope.to_bytes())


def encode_probation(left: Mapping[SubnetNodeId, int]) -> bytes:
    return json.dumps(sorted(left.items())).encode()


def decode_probation(payload: bytes) -> dict[SubnetNodeId, int]:
    return {SubnetNodeId(node_id): epochs for node_id, epochs in json.loads(payload)}


def encode_missed(duty: OwedDuty, reason: str) -> bytes:
    return json.dumps([duty.name, reason]).encode()


def decode_missed(payload: bytes) -> tuple[OwedDuty, str]:
    name, reason = json.loads(payload)
    return OwedDuty[name], reason


def encode_roster(roster: Roster) -> bytes:
    nodes = [
        [
            node.node_id,
            None if node.peer_id is None else node.peer_id.public_key.hex(),
            node.coldkey.hex(),
            node.hotkey.hex(),
            node.node_class.value,
            node.start_epoch,
        ]
        for node in roster.nodes
    ]
    body = {
        "epoch": roster.epoch,
        "first_block": roster.first_block,
        "block_hash": roster.block_hash.hex(),
        "timestamp_s": roster.timestamp_s,
        "nodes": nodes,
    }
    return json.dumps(body).encode()


def decode_roster(payload: bytes) -> Roster:
    body = json.loads(payload)
    nodes = tuple(
        RosterNode(
            node_id=SubnetNodeId(node_id),
            peer_id=None if peer is None else PeerId(bytes.fromhex(peer)),
            coldkey=bytes.fromhex(coldkey),
            hotkey=bytes.fromhex(hotkey),
            node_class=NodeClass(node_class),
            start_epoch=Epoch(start_epoch),
        )
        for node_id, peer, coldkey, hotkey, node_class, start_epoch in body["nodes"]
    )
    return Roster(
        epoch=Epoch(body["epoch"]),
        first_block=BlockNumber(body["first_block"]),
        block_hash=bytes.fromhex(body["block_hash"]),
        timestamp_s=body["timestamp_s"],
        nodes=nodes,
    )


def encode_submission(submission: Submission | None) -> bytes:
    if submission is None:
        return b"null"
    body = {
        "proposer": submission.proposer,
        "block": submission.block,
        "scores": [[node_id, str(score)] for node_id, score in submission.scores],
        "attested": sorted(submission.attested),
        "args": None if submission.args is None else submission.args.hex(),
        "voters": sorted(submission.voters),
        "prioritize_queue_node_id": submission.prioritize_queue_node_id,
        "remove_queue_node_id": submission.remove_queue_node_id,
    }
    return json.dumps(body).encode()


def decode_submission(payload: bytes) -> Submission | None:
    """Return the submission; rows of earlier versions have neither voters nor queue arguments."""
    body = json.loads(payload)
    if body is None:
        return None
    return Submission(
        proposer=SubnetNodeId(body["proposer"]),
        block=BlockNumber(body["block"]),
        scores=tuple((SubnetNodeId(node), Score(int(score))) for node, score in body["scores"]),
        attested=frozenset(SubnetNodeId(node) for node in body["attested"]),
        args=None if body["args"] is None else bytes.fromhex(body["args"]),
        voters=frozenset(SubnetNodeId(node) for node in body.get("voters", ())),
        prioritize_queue_node_id=body.get("prioritize_queue_node_id"),
        remove_queue_node_id=body.get("remove_queue_node_id"),
    )
