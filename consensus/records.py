"""The records that nodes publish in an epoch, and their one encoding.

Fixed-width little-endian fields, exact length, sorted where order is free: one
value has one encoding, so that a hash names a record. Sizes are checked before
anything is parsed or allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from consensus.challenge import FLOAT_SIZE
from consensus.errors import InvalidRecord, Reason
from consensus.protocol_params import MAINNET
from consensus.types import SCORE_ONE, BlockNumber, LayerRange, Score, SubnetNodeId
from keys.envelope import HASH_SIZE, MAX_BODY_SIZE

MAX_VECTOR_SIZE = FLOAT_SIZE * MAINNET.max_vector_coordinates
"""Bytes of one revealed vector: 256 float32 values."""
MAX_NODES = 1024
"""Nodes of one roster; the chain knows 256 a subnet."""
MAX_NODE_ID = 2**32 - 1
MAX_AUDITED_LAYERS = 16
NAME_SIZE = 16
"""A sighting names a record by so many first bytes of its hash."""
TAG_SIZE = 8
NO_SCORES = bytes(HASH_SIZE)
"""The score commitment in the sighting of a node that has no scores."""
MAX_LAYER_END = MAINNET.max_layer_range
"""Ends of layer ranges are at most this."""
MAX_TOTAL = (MAX_LAYER_END + 1) * SCORE_ONE
"""The most that one node's scores can sum to: 1 on each layer and on the head."""

_U32 = struct.Struct("<I")
_CHALLENGE = struct.Struct("<I32s32s")
_OUTPUT_COMMIT = struct.Struct("<32sII32s")
_REVEAL_HEADER = struct.Struct("<32sIII")
_SCORES_HEADER = struct.Struct("<32sI")
_SCORE_ROW = struct.Struct("<I16s8s")
_AUDIT_COMMIT = struct.Struct("<32s32s")
_AUDIT_HEADER = struct.Struct("<32sI")
_SIGHTING_HEADER = struct.Struct("<32sHI")
_SEEN_ROW = struct.Struct("<BH16s")
_LIST_HEADER = struct.Struct("<I")
_LIST_ROW = struct.Struct("<H32s")


class RecordKind(IntEnum):
    """The kind byte of an envelope. 5 was a record of the first edition."""

    HEARTBEAT = 1
    CHALLENGE = 2
    OUTPUT_COMMIT = 3
    OUTPUT_REVEAL = 4
    SCORE_REVEAL = 6
    SIGHTING = 7
    AUDIT_COMMIT = 8
    AUDIT_REVEAL = 9
    NAMED_LIST = 10


EPOCH_KINDS = tuple(kind for kind in RecordKind if kind is not RecordKind.HEARTBEAT)
"""The kinds that belong to an epoch, are write-once and are journaled."""
REVEAL_KINDS = (RecordKind.OUTPUT_REVEAL, RecordKind.AUDIT_REVEAL, RecordKind.SCORE_REVEAL)
"""The kinds that open a commitment."""

SEEN_SLOTS = (
    # The code of a row in a sighting is its place in this table, from 1 on.
    (RecordKind.OUTPUT_COMMIT, 0),
    (RecordKind.OUTPUT_REVEAL, 0),
    (RecordKind.AUDIT_COMMIT, 0),
    (RecordKind.AUDIT_REVEAL, 0),
    (RecordKind.SIGHTING, 1),
    (RecordKind.SCORE_REVEAL, 1),
    (RecordKind.OUTPUT_REVEAL, 1),
)
"""What a sighting lists: kind, and the age of the record in epochs."""
_SEEN_CODES = {slot: code for code, slot in enumerate(SEEN_SLOTS, start=1)}

MAX_BODY_SIZES = {
    RecordKind.CHALLENGE: _CHALLENGE.size,
    RecordKind.OUTPUT_COMMIT: _OUTPUT_COMMIT.size,
    RecordKind.OUTPUT_REVEAL: MAX_BODY_SIZE,
    RecordKind.SCORE_REVEAL: _SCORES_HEADER.size + MAX_NODES * _SCORE_ROW.size,
    RecordKind.SIGHTING: (
        _SIGHTING_HEADER.size + len(SEEN_SLOTS) * MAX_NODES * _SEEN_ROW.size + MAX_NODES // 8
    ),
    RecordKind.AUDIT_COMMIT: _AUDIT_COMMIT.size,
    RecordKind.AUDIT_REVEAL: (
        _AUDIT_HEADER.size + MAX_AUDITED_LAYERS * (_U32.size + MAX_VECTOR_SIZE)
    ),
    RecordKind.NAMED_LIST: _LIST_HEADER.size + MAX_NODES * _LIST_ROW.size,
}


@dataclass(frozen=True, slots=True)
class Challenge:
    """The epoch's seed and the block it comes from; identical for every honest publisher."""

    seed_height: BlockNumber
    seed_block_hash: bytes
    seed: bytes


@dataclass(frozen=True, slots=True)
class OutputCommit:
    """A hoster's commitment to its outputs for ``layers`` under the challenge ``seed``."""

    seed: bytes
    layers: LayerRange
    commitment: bytes


@dataclass(frozen=True, slots=True)
class OutputReveal:
    """What opens an output commit.

    ``vectors`` holds little-endian float32 bytes, one entry per layer of ``layers``, and
    the output head's after them if the range ends at the model's last layer.
    """

    salt: bytes
    layers: LayerRange
    vectors: tuple[bytes, ...]

    def __repr__(self) -> str:
        # A reveal waits in the journal for its window: its salt stays out of logs.
        return f"OutputReveal(layers={self.layers}, vectors={len(self.vectors)})"


class ScoreRow(NamedTuple):
    """What a validator says of one hoster.

    ``total`` is the sum over the hoster's layers of its score before it is divided among those
    that share the layer. ``tag`` proves that the validator had the hoster's reveal: see
    ``consensus.commitment.compute_tag``.
    """

    node_id: SubnetNodeId
    total: Score
    tag: bytes


@dataclass(frozen=True, slots=True)
class ScoreReveal:
    """What opens the score commitment of a sighting: ``rows`` sorted by node id, each id once."""

    salt: bytes
    rows: tuple[ScoreRow, ...]

    def __repr__(self) -> str:
        return f"ScoreReveal(rows={len(self.rows)})"


@dataclass(frozen=True, slots=True)
class AuditCommit:
    """A validator's commitment to its own outputs of the layers drawn by the block ``draw``."""

    draw: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class AuditReveal:
    """What opens an audit commit: one vector for each drawn layer, in ascending order."""

    salt: bytes
    vectors: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"AuditReveal(vectors={len(self.vectors)})"


class SeenRecord(NamedTuple):
    """A record that a node saw inside its window.

    ``age`` is 0 for the sighting's own epoch and 1 for the one before. ``position`` is the
    author's in the roster of the sighting's epoch. ``name`` is the start of the record's hash.
    """

    kind: RecordKind
    age: int
    position: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a validator saw in an epoch, and its commitment to its scores of the epoch.

    ``num_nodes`` is the size of the epoch's roster. ``seen`` is sorted by code and position, each
    slot once. ``failed_probes`` are positions of hosters that failed this node's probes.
    """

    commitment: bytes
    num_nodes: int
    seen: tuple[SeenRecord, ...]
    failed_probes: frozenset[int] = frozenset()


class NamedSighting(NamedTuple):
    """One row of a named list: whose sighting, by position in the scored epoch's roster."""

    position: int
    record_hash: bytes


@dataclass(frozen=True, slots=True)
class NamedList:
    """The sightings that a proposal rests on, sorted by position, each position once."""

    rows: tuple[NamedSighting, ...]


Body = (
    Challenge
    | OutputCommit
    | OutputReveal
    | ScoreReveal
    | Sighting
    | AuditCommit
    | AuditReveal
    | NamedList
)


def encode_challenge(challenge: Challenge) -> bytes:
    """Return the 68 canonical bytes."""
    return _CHALLENGE.pack(challenge.seed_height, challenge.seed_block_hash, challenge.seed)


def decode_challenge(raw: bytes) -> Challenge:
    """Parse a challenge. Raises InvalidRecord."""
    _check_exact(raw, _CHALLENGE.size)
    height, block_hash, seed = _CHALLENGE.unpack(raw)
    return Challenge(BlockNumber(height), block_hash, seed)


def encode_output_commit(commit: OutputCommit) -> bytes:
    """Return the 72 canonical bytes."""
    return _OUTPUT_COMMIT.pack(
        commit.seed, commit.layers.start, commit.layers.end, commit.commitment
    )


def decode_output_commit(raw: bytes) -> OutputCommit:
    """Parse an output commit. Raises InvalidRecord."""
    _check_exact(raw, _OUTPUT_COMMIT.size)
    seed, start, end, commitment = _OUTPUT_COMMIT.unpack(raw)
    return OutputCommit(seed, _decode_range(start, end), commitment)


def encode_output_reveal(reveal: OutputReveal) -> bytes:
    """Return the canonical bytes: salt, range, count, then each vector with its length.

    Raises ValueError if a limit is passed.
    """
    header = _REVEAL_HEADER.pack(
        reveal.salt, reveal.layers.start, reveal.layers.end, len(reveal.vectors)
    )
    raw = header + _encode_vectors(reveal.vectors)
    if len(raw) > MAX_BODY_SIZE:
        raise ValueError(f"a reveal has at most {MAX_BODY_SIZE} bytes, not {len(raw)}")
    return raw


def decode_output_reveal(raw: bytes) -> OutputReveal:
    """Parse an output reveal. Raises InvalidRecord.

    Whether a vector is finite and in bounds is judged when it is scored, vector by vector.
    """
    _check_between(raw, _REVEAL_HEADER.size, MAX_BODY_SIZE)
    salt, start, end, count = _REVEAL_HEADER.unpack_from(raw)
    layers = _decode_range(start, end)
    if count not in (len(layers), len(layers) + 1):
        raise InvalidRecord(Reason.MALFORMED, f"{count} vectors for {len(layers)} layers")
    return OutputReveal(salt, layers, _decode_vectors(raw, _REVEAL_HEADER.size, count))


def encode_score_reveal(reveal: ScoreReveal) -> bytes:
    """Return the canonical bytes: salt, count, then 28 bytes a row, sorted by node id.

    Raises ValueError if the rows are not sorted, repeat an id or pass a limit.
    """
    return _SCORES_HEADER.pack(reveal.salt, len(reveal.rows)) + encode_score_rows(reveal.rows)


def encode_score_rows(rows: Sequence[ScoreRow]) -> bytes:
    """Return node id u32, total u128 and tag of each row. Raises ValueError as above."""
    ids = [row.node_id for row in rows]
    if ids != sorted(set(ids)) or len(ids) > MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} score rows, sorted by node id, each id once")
    if any(not 0 <= node_id <= MAX_NODE_ID for node_id in ids):
        raise ValueError(f"a node id is at most {MAX_NODE_ID}")
    if any(not 0 <= row.total <= MAX_TOTAL or len(row.tag) != TAG_SIZE for row in rows):
        raise ValueError(f"a total is at most {MAX_TOTAL}, and a tag has {TAG_SIZE} bytes")
    return b"".join(
        _SCORE_ROW.pack(row.node_id, row.total.to_bytes(16, "little"), row.tag) for row in rows
    )


def decode_score_reveal(raw: bytes) -> ScoreReveal:
    """Parse a score reveal. Raises InvalidRecord."""
    _check_between(raw, _SCORES_HEADER.size, MAX_BODY_SIZES[RecordKind.SCORE_REVEAL])
    salt, count = _SCORES_HEADER.unpack_from(raw)
    _check_exact(raw, _SCORES_HEADER.size + count * _SCORE_ROW.size)
    rows, previous = [], -1
    for node_id, raw_total, tag in _SCORE_ROW.iter_unpack(raw[_SCORES_HEADER.size :]):
        total = int.from_bytes(raw_total, "little")
        if node_id <= previous:
            raise InvalidRecord(Reason.MALFORMED, "score rows are not sorted by node id")
        if total > MAX_TOTAL:
            raise InvalidRecord(Reason.MALFORMED, f"a total is above {MAX_TOTAL}")
        rows.append(ScoreRow(SubnetNodeId(node_id), Score(total), tag))
        previous = node_id
    return ScoreReveal(salt, tuple(rows))


def encode_audit_commit(commit: AuditCommit) -> bytes:
    """Return the 64 canonical bytes."""
    return _AUDIT_COMMIT.pack(commit.draw, commit.commitment)


def decode_audit_commit(raw: bytes) -> AuditCommit:
    """Parse an audit commit. Raises InvalidRecord."""
    _check_exact(raw, _AUDIT_COMMIT.size)
    return AuditCommit(*_AUDIT_COMMIT.unpack(raw))


def encode_audit_reveal(reveal: AuditReveal) -> bytes:
    """Return the canonical bytes: salt, count, then each vector with its length.

    Raises ValueError if a limit is passed.
    """
    if len(reveal.vectors) > MAX_AUDITED_LAYERS:
        raise ValueError(f"at most {MAX_AUDITED_LAYERS} layers are audited")
    header = _AUDIT_HEADER.pack(reveal.salt, len(reveal.vectors))
    return header + _encode_vectors(reveal.vectors)


def decode_audit_reveal(raw: bytes) -> AuditReveal:
    """Parse an audit reveal. Raises InvalidRecord."""
    _check_between(raw, _AUDIT_HEADER.size, MAX_BODY_SIZES[RecordKind.AUDIT_REVEAL])
    salt, count = _AUDIT_HEADER.unpack_from(raw)
    if count > MAX_AUDITED_LAYERS:
        raise InvalidRecord(Reason.MALFORMED, f"{count} audited layers")
    return AuditReveal(salt, _decode_vectors(raw, _AUDIT_HEADER.size, count))


def encode_sighting(sighting: Sighting) -> bytes:
    """Return the canonical bytes: commitment, size of the roster, count, rows, bitmap of probes.

    Raises ValueError if the rows are not sorted, repeat a slot or pass a limit.
    """
    slots = [(_SEEN_CODES[row.kind, row.age], row.position) for row in sighting.seen]
    positions = {position for _, position in slots} | sighting.failed_probes
    if slots != sorted(set(slots)):
        raise ValueError("the rows of a sighting are sorted by slot, each slot once")
    if any(len(row.name) != NAME_SIZE for row in sighting.seen):
        raise ValueError(f"a record is named by {NAME_SIZE} bytes")
    if sighting.num_nodes > MAX_NODES or any(p >= sighting.num_nodes for p in positions):
        raise ValueError("a position is beyond the roster, or the roster is too large")
    rows = (
        _SEEN_ROW.pack(code, position, row.name)
        for (code, position), row in zip(slots, sighting.seen, strict=True)
    )
    header = _SIGHTING_HEADER.pack(sighting.commitment, sighting.num_nodes, len(slots))
    bitmap = encode_bitmap(sighting.failed_probes, sighting.num_nodes)
    return header + b"".join(rows) + bitmap


def decode_sighting(raw: bytes) -> Sighting:
    """Parse a sighting. Raises InvalidRecord."""
    _check_between(raw, _SIGHTING_HEADER.size, MAX_BODY_SIZES[RecordKind.SIGHTING])
    commitment, num_nodes, count = _SIGHTING_HEADER.unpack_from(raw)
    if num_nodes > MAX_NODES:
        raise InvalidRecord(Reason.MALFORMED, f"a roster of {num_nodes} nodes")
    end = _SIGHTING_HEADER.size + count * _SEEN_ROW.size
    _check_exact(raw, end + compute_bitmap_size(num_nodes))
    seen, previous = [], (0, -1)
    for code, position, name in _SEEN_ROW.iter_unpack(raw[_SIGHTING_HEADER.size : end]):
        if not 1 <= code <= len(SEEN_SLOTS):
            raise InvalidRecord(Reason.WRONG_KIND, f"a sighted record of code {code}")
        if (code, position) <= previous or position >= num_nodes:
            raise InvalidRecord(Reason.MALFORMED, "sighted records are not sorted by slot")
        seen.append(SeenRecord(*SEEN_SLOTS[code - 1], position, name))
        previous = (code, position)
    failed = decode_bitmap(raw[end:], num_nodes)
    return Sighting(commitment, num_nodes, tuple(seen), failed)


def read_score_commitment(raw: bytes) -> bytes:
    """Return the score commitment of an encoded sighting without parsing the rest."""
    return raw[:HASH_SIZE]


def encode_named_list(named: NamedList) -> bytes:
    """Return the canonical bytes: count, then 34 bytes a row, sorted by position.

    Raises ValueError if the rows are not sorted, repeat a position or pass a limit.
    """
    positions = [row.position for row in named.rows]
    if positions != sorted(set(positions)) or len(positions) > MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} named sightings, sorted, each position once")
    rows = (_LIST_ROW.pack(*row) for row in named.rows)
    return _LIST_HEADER.pack(len(positions)) + b"".join(rows)


def decode_named_list(raw: bytes) -> NamedList:
    """Parse a named list. Raises InvalidRecord."""
    _check_between(raw, _LIST_HEADER.size, MAX_BODY_SIZES[RecordKind.NAMED_LIST])
    (count,) = _LIST_HEADER.unpack_from(raw)
    _check_exact(raw, _LIST_HEADER.size + count * _LIST_ROW.size)
    rows = tuple(NamedSighting(*row) for row in _LIST_ROW.iter_unpack(raw[_LIST_HEADER.size :]))
    if any(left.position >= right.position for left, right in pairwise(rows)):
        raise InvalidRecord(Reason.MALFORMED, "named sightings are not sorted by position")
    return NamedList(rows)


def compute_bitmap_size(num_bits: int) -> int:
    """Return the bytes of a bitmap."""
    return -(-num_bits // 8)


def encode_bitmap(positions: Collection[int], num_bits: int) -> bytes:
    """Return one bit for each position below ``num_bits``, the lowest bit of a byte first."""
    total = sum(1 << position for position in positions)
    return total.to_bytes(compute_bitmap_size(num_bits), "little")


def decode_bitmap(raw: bytes, num_bits: int) -> frozenset[int]:
    """Parse a bitmap of the right size. Raises InvalidRecord for a bit beyond ``num_bits``."""
    total = int.from_bytes(raw, "little")
    if total >> num_bits:
        raise InvalidRecord(Reason.MALFORMED, f"a bit beyond the {num_bits} nodes of the roster")
    return frozenset(position for position in range(num_bits) if total >> position & 1)


def decode_body(kind: RecordKind, raw: bytes) -> Body:
    """Parse the body of an epoch's record. Raises InvalidRecord."""
    return _DECODERS[kind](raw)


def is_vector_size(size: int) -> bool:
    """Whether a vector may have this many bytes."""
    return FLOAT_SIZE <= size <= MAX_VECTOR_SIZE and size % FLOAT_SIZE == 0


_DECODERS: dict[RecordKind, Callable[[bytes], Body]] = {
    RecordKind.CHALLENGE: decode_challenge,
    RecordKind.OUTPUT_COMMIT: decode_output_commit,
    RecordKind.OUTPUT_REVEAL: decode_output_reveal,
    RecordKind.SCORE_REVEAL: decode_score_reveal,
    RecordKind.SIGHTING: decode_sighting,
    RecordKind.AUDIT_COMMIT: decode_audit_commit,
    RecordKind.AUDIT_REVEAL: decode_audit_reveal,
    RecordKind.NAMED_LIST: decode_named_list,
}


def _decode_range(start: int, end: int) -> LayerRange:
    if not start < end <= MAX_LAYER_END:
        raise InvalidRecord(Reason.WRONG_RANGE, f"[{start}, {end})")
    return LayerRange(start, end)


def _encode_vectors(vectors: Sequence[bytes]) -> bytes:
    if not all(is_vector_size(len(vector)) for vector in vectors):
        raise ValueError(f"a vector has 4 to {MAX_VECTOR_SIZE} bytes")
    return b"".join(part for vector in vectors for part in (_U32.pack(len(vector)), vector))


def _decode_vectors(raw: bytes, position: int, count: int) -> tuple[bytes, ...]:
    """Parse ``count`` vectors from ``position`` to the end."""
    vectors = []
    for _ in range(count):
        vector, position = _decode_vector(raw, position)
        vectors.append(vector)
    if position != len(raw):
        raise InvalidRecord(Reason.WRONG_SIZE, f"{len(raw) - position} trailing bytes")
    return tuple(vectors)


def _decode_vector(raw: bytes, position: int) -> tuple[bytes, int]:
    start = position + _U32.size
    if start > len(raw):
        raise InvalidRecord(Reason.WRONG_SIZE, "the reveal ends before its last vector")
    (size,) = _U32.unpack_from(raw, position)
    if not is_vector_size(size) or start + size > len(raw):
        raise InvalidRecord(Reason.WRONG_SIZE, f"a vector of {size} bytes")
    return raw[start : start + size], start + size


def _check_exact(raw: bytes, size: int) -> None:
    if len(raw) != size:
        raise InvalidRecord(Reason.WRONG_SIZE, f"{len(raw)} bytes, not {size}")


def _check_between(raw: bytes, smallest: int, largest: int) -> None:
    if not smallest <= len(raw) <= largest:
        raise InvalidRecord(Reason.WRONG_SIZE, f"{len(raw)} bytes, not {smallest} to {largest}")
