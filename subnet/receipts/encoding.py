"""The one encoding of an epoch's evidence: the file that a node keeps, and that is shared.

Little-endian fields of fixed width, counts before lists, lists sorted where order is free, and the
SHA-256 of everything before it at the end. A file may come from a stranger: its size is checked
first, no count is believed before its bytes are there, and nothing is allocated for it before.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import TypeVar

from consensus.challenge import ModelShape
from consensus.naming import MAX_PROBATION
from consensus.protocol_params import MAINNET, MIN_EPOCH_LENGTH, MINIMAL
from consensus.records import EPOCH_KINDS, MAX_NODES, RecordKind
from consensus.roster import Roster, RosterNode
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, NodeClass, Score, SubnetId, SubnetNodeId
from keys.envelope import HASH_SIZE, Envelope, decode_envelope
from keys.errors import BadEnvelope
from keys.peer import PeerId
from subnet.errors import ReceiptDamaged
from subnet.receipts.evidence import EpochEvidence, FirstSeen, Notes, OwnRecord

MAX_SIZE = 64 << 20
"""Bytes of one epoch's evidence. 256 nodes that serve 80 layers each need as much."""
MAX_RECORDS = 16 * MAX_NODES
MAX_MISSED = 64
MAX_TEXT = 4096
PRESETS = (MAINNET, MINIMAL)
"""A file names the protocol's numbers by their place here."""
_MAGIC = b"MESHWHY1"
_MAX_EPOCH_LENGTH = 1 << 20
_HEADER = struct.Struct("<8s32sIIIBII")
_SHAPE = struct.Struct("<IIIH")
_ROSTER = struct.Struct("<II32sQH")
_NODE = struct.Struct("<IB32s20s20sBI")
_SUBMISSION = struct.Struct("<IIHHHH")
_SEEN = struct.Struct("<BII16sI")
_OWN = struct.Struct("<BIB")
_U8, _U16, _U32 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I")
_U128_SIZE = 16
_NO_KEY = bytes(32)
T = TypeVar("T")


def encode_evidence(evidence: EpochEvidence) -> bytes:
    """Return the canonical bytes. Raises ValueError where they pass MAX_SIZE."""
    header = _HEADER.pack(
        _MAGIC,
        evidence.network_id,
        evidence.subnet_id,
        evidence.epoch_length,
        evidence.block_time_ms,
        PRESETS.index(evidence.params),
        evidence.kept_by,
        evidence.about,
    )
    flags = evidence.is_scored | evidence.is_previous_scored << 1 | evidence.is_settled << 2
    parts = [
        header,
        _encode_shape(evidence.shape),
        _U8.pack(flags),
        _encode_roster(evidence.roster),
        _encode_roster(evidence.following),
        _encode_optional(evidence.previous, _encode_roster),
        _encode_optional(evidence.draw, bytes),
        _encode_list(sorted(evidence.probation.items()), lambda row: struct.pack("<IB", *row)),
        _encode_optional(evidence.elected, _U32.pack),
        _encode_optional(evidence.submission, _encode_submission),
        _encode_optional(evidence.min_attestation, _encode_u128),
        _encode_list(sorted(evidence.departed), _U32.pack),
        _encode_list(evidence.records, _encode_record),
        _encode_list(evidence.seen, _encode_seen),
        _encode_list(evidence.own, _encode_own),
        _encode_notes(evidence.notes),
    ]
    raw = b"".join(parts)
    if len(raw) + HASH_SIZE > MAX_SIZE:
        raise ValueError(f"an epoch's evidence has at most {MAX_SIZE} bytes, not {len(raw)}")
    return raw + hashlib.sha256(raw).digest()


def decode_evidence(raw: bytes) -> EpochEvidence:
    """Parse the canonical bytes. Raises ReceiptDamaged.

    The checksum is not compared (``check_digest``): a file that was edited is told what of it does
    not hold before it is told that something does not.
    """
    if not _HEADER.size + HASH_SIZE <= len(raw) <= MAX_SIZE:
        raise ReceiptDamaged(f"{len(raw)} bytes are not the size of a receipt file")
    cursor = _Cursor(raw[:-HASH_SIZE])
    try:
        evidence = _decode(cursor)
        cursor.check_end()
        _check_epochs(evidence)
        if encode_evidence(evidence)[:-HASH_SIZE] != raw[:-HASH_SIZE]:
            raise ReceiptDamaged("its fields are not in their one order")
    except (ValueError, BadEnvelope) as error:
        raise ReceiptDamaged(f"a field of it is impossible: {error}") from error
    return evidence


def check_digest(raw: bytes) -> None:
    """Raise ReceiptDamaged unless the file ends with the checksum of the rest."""
    if hashlib.sha256(raw[:-HASH_SIZE]).digest() != raw[-HASH_SIZE:]:
        raise ReceiptDamaged("its checksum is not that of its contents")


def _check_epochs(evidence: EpochEvidence) -> None:
    """Raise ReceiptDamaged unless the rosters are those of three epochs in a row."""
    before, epoch = evidence.previous, evidence.epoch
    is_in_row = before is None or before.epoch == epoch - 1
    if evidence.following.epoch != epoch + 1 or not is_in_row:
        raise ReceiptDamaged("its rosters are not those of epochs in a row")


class _Cursor:
    """Takes bytes from the front."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._place = 0

    def take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._raw):
            raise ReceiptDamaged("it is cut off")
        taken, self._place = self._raw[self._place : end], end
        return taken

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def take_number(self, form: struct.Struct) -> int:
        (number,) = self.unpack(form)
        return number

    def take_flag(self) -> bool:
        flag = self.take_number(_U8)
        if flag > 1:
            raise ReceiptDamaged("a flag is neither 0 nor 1")
        return bool(flag)

    def take_optional(self, take: Callable[[], T]) -> T | None:
        return take() if self.take_flag() else None

    def take_list(self, take: Callable[[], T], *, most: int) -> tuple[T, ...]:
        count = self.take_number(_U32)
        if count > most:
            raise ReceiptDamaged(f"a list of {count} entries, where {most} are the most")
        return tuple([take() for _ in range(count)])

    def check_end(self) -> None:
        if self._place != len(self._raw):
            raise ReceiptDamaged(f"{len(self._raw) - self._place} bytes follow its end")


def _decode(cursor: _Cursor) -> EpochEvidence:
    magic, network_id, subnet_id, length, block_time_ms, preset, kept_by, about = _HEADER.unpack(
        cursor.take(_HEADER.size)
    )
    if magic != _MAGIC:
        raise ReceiptDamaged("it does not begin as one")
    if preset >= len(PRESETS) or not MIN_EPOCH_LENGTH <= length <= _MAX_EPOCH_LENGTH:
        raise ReceiptDamaged("it names numbers that no protocol has")
    shape = _take_shape(cursor)
    flags = cursor.take_number(_U8)
    return EpochEvidence(
        subnet_id=SubnetId(subnet_id),
        network_id=network_id,
        epoch_length=length,
        block_time_ms=block_time_ms,
        params=PRESETS[preset],
        shape=shape,
        kept_by=SubnetNodeId(kept_by),
        about=SubnetNodeId(about),
        is_scored=bool(flags & 1),
        is_previous_scored=bool(flags & 2),
        is_settled=bool(flags & 4),
        roster=_take_roster(cursor),
        following=_take_roster(cursor),
        previous=cursor.take_optional(lambda: _take_roster(cursor)),
        draw=cursor.take_optional(lambda: cursor.take(HASH_SIZE)),
        probation=dict(cursor.take_list(lambda: _take_probation(cursor), most=MAX_NODES)),
        elected=cursor.take_optional(lambda: _take_node_id(cursor)),
        submission=cursor.take_optional(lambda: _take_submission(cursor)),
        min_attestation=cursor.take_optional(lambda: _take_u128(cursor)),
        departed=frozenset(cursor.take_list(lambda: _take_node_id(cursor), most=MAX_NODES)),
        records=cursor.take_list(lambda: _take_record(cursor), most=MAX_RECORDS),
        seen=cursor.take_list(lambda: _take_seen(cursor), most=MAX_RECORDS),
        own=cursor.take_list(lambda: _take_own(cursor), most=MAX_RECORDS),
        notes=_take_notes(cursor),
    )


def _encode_optional(value: T | None, encode: Callable[[T], bytes]) -> bytes:
    return b"\0" if value is None else b"\1" + encode(value)


def _encode_list(values: Iterable[T], encode: Callable[[T], bytes]) -> bytes:
    parts = [encode(value) for value in values]
    return _U32.pack(len(parts)) + b"".join(parts)


def _encode_u128(number: int) -> bytes:
    return number.to_bytes(_U128_SIZE, "little")


def _take_u128(cursor: _Cursor) -> int:
    return int.from_bytes(cursor.take(_U128_SIZE), "little")


def _take_node_id(cursor: _Cursor) -> SubnetNodeId:
    return SubnetNodeId(cursor.take_number(_U32))


def _encode_shape(shape: ModelShape) -> bytes:
    sizes = (shape.num_layers, shape.hidden_size, shape.vocab_size, len(shape.scales))
    return _SHAPE.pack(*sizes) + struct.pack(f"<{len(shape.scales)}b", *shape.scales)


def _take_shape(cursor: _Cursor) -> ModelShape:
    num_layers, hidden_size, vocab_size, num_scales = cursor.unpack(_SHAPE)
    if num_layers > MAINNET.max_layer_range:
        raise ReceiptDamaged(f"a model of {num_layers} layers")
    scales = struct.unpack(f"<{num_scales}b", cursor.take(num_scales))
    return ModelShape(num_layers, hidden_size, vocab_size, scales)


def _encode_roster(roster: Roster) -> bytes:
    header = _ROSTER.pack(
        roster.epoch, roster.first_block, roster.block_hash, roster.timestamp_s, len(roster.nodes)
    )
    return header + b"".join(_encode_node(node) for node in roster.nodes)


def _encode_node(node: RosterNode) -> bytes:
    key = _NO_KEY if node.peer_id is None else node.peer_id.public_key
    return _NODE.pack(
        node.node_id,
        node.peer_id is not None,
        key,
        node.coldkey,
        node.hotkey,
        node.node_class,
        min(node.start_epoch, 0xFFFFFFFF),
    )


def _take_roster(cursor: _Cursor) -> Roster:
    epoch, first_block, block_hash, timestamp_s, count = _ROSTER.unpack(cursor.take(_ROSTER.size))
    if count > MAX_NODES:
        raise ReceiptDamaged(f"a roster of {count} nodes")
    nodes = tuple([_take_node(cursor) for _ in range(count)])
    if len({node.node_id for node in nodes}) != count:
        raise ReceiptDamaged("a roster lists a node twice")
    return Roster(Epoch(epoch), BlockNumber(first_block), block_hash, timestamp_s, nodes)


def _take_node(cursor: _Cursor) -> RosterNode:
    node_id, has_key, key, coldkey, hotkey, node_class, start = _NODE.unpack(
        cursor.take(_NODE.size)
    )
    return RosterNode(
        SubnetNodeId(node_id),
        PeerId(key) if has_key else None,
        coldkey,
        hotkey,
        NodeClass(node_class),
        Epoch(start),
    )


def _take_probation(cursor: _Cursor) -> tuple[SubnetNodeId, int]:
    node_id, left = struct.unpack("<IB", cursor.take(5))
    if not 1 <= left <= MAX_PROBATION:
        raise ReceiptDamaged(f"a probation of {left} epochs")
    return SubnetNodeId(node_id), left


def _encode_submission(submission: Submission) -> bytes:
    args = submission.args or b""
    header = _SUBMISSION.pack(
        submission.proposer,
        submission.block,
        len(submission.scores),
        len(submission.attested),
        len(submission.voters),
        len(args),
    )
    rows = b"".join(_U32.pack(node) + _encode_u128(score) for node, score in submission.scores)
    nodes = (*sorted(submission.attested), *sorted(submission.voters))
    return b"".join(
        (
            header,
            rows,
            struct.pack(f"<{len(nodes)}I", *nodes),
            _U8.pack(submission.args is not None),
            args,
            _encode_optional(submission.prioritize_queue_node_id, _U32.pack),
            _encode_optional(submission.remove_queue_node_id, _U32.pack),
        )
    )


def _take_submission(cursor: _Cursor) -> Submission:
    proposer, block, num_rows, num_attested, num_voters, args_size = cursor.unpack(_SUBMISSION)
    if max(num_rows, num_attested, num_voters) > MAX_NODES:
        raise ReceiptDamaged("a proposal of more nodes than a subnet has")
    rows = [
        (SubnetNodeId(cursor.take_number(_U32)), Score(_take_u128(cursor))) for _ in range(num_rows)
    ]
    attested = [_take_node_id(cursor) for _ in range(num_attested)]
    voters = [_take_node_id(cursor) for _ in range(num_voters)]
    has_args = cursor.take_flag()
    args = cursor.take(args_size)
    return Submission(
        proposer=SubnetNodeId(proposer),
        block=BlockNumber(block),
        scores=tuple(rows),
        attested=frozenset(attested),
        args=args if has_args else None,
        voters=frozenset(voters),
        prioritize_queue_node_id=cursor.take_optional(lambda: _take_node_id(cursor)),
        remove_queue_node_id=cursor.take_optional(lambda: _take_node_id(cursor)),
    )


def _encode_record(envelope: Envelope) -> bytes:
    raw = envelope.to_bytes()
    return _U32.pack(len(raw)) + raw


def _take_record(cursor: _Cursor) -> Envelope:
    envelope = decode_envelope(cursor.take(cursor.take_number(_U32)))
    _take_kind(envelope.kind)
    return envelope


def _take_kind(number: int) -> RecordKind:
    if number not in EPOCH_KINDS:
        raise ReceiptDamaged(f"a record of kind {number}")
    return RecordKind(number)


def _encode_seen(record: FirstSeen) -> bytes:
    return _SEEN.pack(*record.slot, record.name, record.seen_at)


def _take_seen(cursor: _Cursor) -> FirstSeen:
    kind, epoch, node_id, name, seen_at = _SEEN.unpack(cursor.take(_SEEN.size))
    slot = (_take_kind(kind), Epoch(epoch), SubnetNodeId(node_id))
    return FirstSeen(slot, name, BlockNumber(seen_at))


def _encode_own(record: OwnRecord) -> bytes:
    return _OWN.pack(record.kind, record.epoch, record.is_acknowledged)


def _take_own(cursor: _Cursor) -> OwnRecord:
    kind, epoch, is_acknowledged = cursor.unpack(_OWN)
    return OwnRecord(_take_kind(kind), Epoch(epoch), bool(is_acknowledged))


def _encode_text(text: str) -> bytes:
    # A cut may fall within a character.
    raw = text.encode()[:MAX_TEXT].decode(errors="ignore").encode()
    return _U16.pack(len(raw)) + raw


def _take_text(cursor: _Cursor) -> str:
    return cursor.take(min(cursor.take_number(_U16), MAX_TEXT)).decode()


def _encode_notes(notes: Notes) -> bytes:
    return b"".join(
        (
            _encode_list(
                notes.missed,
                lambda row: _U32.pack(row[0]) + _encode_text(row[1]) + _encode_text(row[2]),
            ),
            _encode_optional(notes.refused, _encode_text),
            _encode_optional(notes.num_heads, _U32.pack),
            _encode_optional(notes.chain_trouble, _encode_text),
        )
    )


def _take_notes(cursor: _Cursor) -> Notes:
    def take_missed() -> tuple[Epoch, str, str]:
        return Epoch(cursor.take_number(_U32)), _take_text(cursor), _take_text(cursor)

    return Notes(
        missed=cursor.take_list(take_missed, most=MAX_MISSED),
        refused=cursor.take_optional(lambda: _take_text(cursor)),
        num_heads=cursor.take_optional(lambda: cursor.take_number(_U32)),
        chain_trouble=cursor.take_optional(lambda: _take_text(cursor)),
    )
