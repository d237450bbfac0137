"""The records that nodes publish in an epoch, and their one encoding.

Fixed-width little-endian fields, exact length, sorted where order is free: one
value has one encoding, so that a hash names a record. Sizes are checked before
anything is parsed or allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from consensus.challenge import FLOAT_SIZE
from consensus.errors import InvalidRecord, Reason
from consensus.protocol_params import MAINNET
from consensus.types import SCORE_ONE, BlockNumber, LayerRange, Score, SubnetNodeId
from keys.envelope import HASH_SIZE, MAX_BODY_SIZE

MAX_VECTOR_SIZE = FLOAT_SIZE * MAINNET.max_vector_coordinates
"""Bytes of one revealed vector: 256 float32 values."""
MAX_SCORE_ROWS = 4096
MAX_DIGESTS = 2048
"""Rows of one sighting: both commits and reveals of 512 nodes; the chain knows 256 a subnet."""
MAX_LAYER_END = MAINNET.max_layer_range
"""Ends of layer ranges are at most this."""

_U32 = struct.Struct("<I")
_CHALLENGE = struct.Struct("<I32s32s")
_OUTPUT_COMMIT = struct.Struct("<32sII32s")
_REVEAL_HEADER = struct.Struct("<32sIII")
_SCORES_HEADER = struct.Struct("<32sI")
_SCORE_ROW = struct.Struct("<I16s")
_DIGEST_ROW = struct.Struct("<BII32s64s")


class RecordKind(IntEnum):
    """The kind byte of an envelope. 8 to 10 are reserved."""

    HEARTBEAT = 1
    CHALLENGE = 2
    OUTPUT_COMMIT = 3
    OUTPUT_REVEAL = 4
    SCORE_COMMIT = 5
    SCORE_REVEAL = 6
    SIGHTING = 7


EPOCH_KINDS = (
    RecordKind.CHALLENGE,
    RecordKind.OUTPUT_COMMIT,
    RecordKind.OUTPUT_REVEAL,
    RecordKind.SCORE_COMMIT,
    RecordKind.SCORE_REVEAL,
    RecordKind.SIGHTING,
)
"""The kinds that belong to an epoch, are write-once and are journaled."""
OUTPUT_KINDS = (RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL)
SCORE_KINDS = (RecordKind.SCORE_COMMIT, RecordKind.SCORE_REVEAL)
_DIGEST_KINDS = {int(kind): kind for kind in OUTPUT_KINDS + SCORE_KINDS}

MAX_BODY_SIZES = {
    RecordKind.CHALLENGE: _CHALLENGE.size,
    RecordKind.OUTPUT_COMMIT: _OUTPUT_COMMIT.size,
    RecordKind.OUTPUT_REVEAL: MAX_BODY_SIZE,
    RecordKind.SCORE_COMMIT: HASH_SIZE,
    RecordKind.SCORE_REVEAL: _SCORES_HEADER.size + MAX_SCORE_ROWS * _SCORE_ROW.size,
    RecordKind.SIGHTING: _U32.size + MAX_DIGESTS * _DIGEST_ROW.size,
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


@dataclass(frozen=True, slots=True)
class ScoreCommit:
    """A validator's commitment to its scores of the hosters."""

    commitment: bytes


@dataclass(frozen=True, slots=True)
class ScoreReveal:
    """What opens a score commit: ``scores`` sorted by node id, each id once."""

    salt: bytes
    scores: tuple[tuple[SubnetNodeId, Score], ...]

    def __repr__(self) -> str:
        return f"ScoreReveal(scores={len(self.scores)})"


@dataclass(frozen=True, slots=True)
class RecordDigest:
    """A record that a node saw: enough to prove who signed it, without its body."""

    kind: RecordKind
    node_id: SubnetNodeId
    body_size: int
    body_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SeenRecords:
    """The commits and reveals that a validator saw: the body of a SIGHTING.

    Output kinds are of the record's own epoch, score kinds of the epoch before it. ``digests``
    are sorted by kind and node id, each slot once.
    """

    digests: tuple[RecordDigest, ...]


Body = Challenge | OutputCommit | OutputReveal | ScoreCommit | ScoreReveal | SeenRecords


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
    parts = [
        _REVEAL_HEADER.pack(
            reveal.salt, reveal.layers.start, reveal.layers.end, len(reveal.vectors)
        )
    ]
    for vector in reveal.vectors:
        if not is_vector_size(len(vector)):
            raise ValueError(f"a vector has 4 to {MAX_VECTOR_SIZE} bytes, not {len(vector)}")
        parts += (_U32.pack(len(vector)), vector)
    raw = b"".join(parts)
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
    vectors, position = [], _REVEAL_HEADER.size
    for _ in range(count):
        vector, position = _decode_vector(raw, position)
        vectors.append(vector)
    if position != len(raw):
        raise InvalidRecord(Reason.WRONG_SIZE, f"{len(raw) - position} trailing bytes")
    return OutputReveal(salt, layers, tuple(vectors))


def encode_score_commit(commit: ScoreCommit) -> bytes:
    """Return the 32 canonical bytes."""
    return commit.commitment


def decode_score_commit(raw: bytes) -> ScoreCommit:
    """Parse a score commit. Raises InvalidRecord."""
    _check_exact(raw, HASH_SIZE)
    return ScoreCommit(raw)


def encode_score_reveal(reveal: ScoreReveal) -> bytes:
    """Return the canonical bytes: salt, count, then (node id u32, score u128) sorted by id.

    Raises ValueError if the rows are not sorted, repeat an id or pass a limit.
    """
    ids = [node_id for node_id, _ in reveal.scores]
    if ids != sorted(set(ids)):
        raise ValueError("score rows are sorted by node id, each id once")
    if len(ids) > MAX_SCORE_ROWS or any(not 0 <= s <= SCORE_ONE for _, s in reveal.scores):
        raise ValueError("too many score rows, or a score outside [0, 10**18]")
    rows = (_SCORE_ROW.pack(node, score.to_bytes(16, "little")) for node, score in reveal.scores)
    return _SCORES_HEADER.pack(reveal.salt, len(reveal.scores)) + b"".join(rows)


def decode_score_reveal(raw: bytes) -> ScoreReveal:
    """Parse a score reveal. Raises InvalidRecord."""
    _check_between(raw, _SCORES_HEADER.size, MAX_BODY_SIZES[RecordKind.SCORE_REVEAL])
    salt, count = _SCORES_HEADER.unpack_from(raw)
    _check_exact(raw, _SCORES_HEADER.size + count * _SCORE_ROW.size)
    scores, previous = [], -1
    for node_id, score_bytes in _SCORE_ROW.iter_unpack(raw[_SCORES_HEADER.size :]):
        score = int.from_bytes(score_bytes, "little")
        if node_id <= previous:
            raise InvalidRecord(Reason.MALFORMED, "score rows are not sorted by node id")
        if score > SCORE_ONE:
            raise InvalidRecord(Reason.MALFORMED, "a score is above 10**18")
        scores.append((SubnetNodeId(node_id), Score(score)))
        previous = node_id
    return ScoreReveal(salt, tuple(scores))


def encode_seen_records(seen: SeenRecords) -> bytes:
    """Return the canonical bytes: count, then 105 bytes a digest, sorted by kind and node id.

    Raises ValueError if the digests are not sorted, repeat a slot or are too many.
    """
    slots = [(digest.kind, digest.node_id) for digest in seen.digests]
    if slots != sorted(set(slots)) or len(slots) > MAX_DIGESTS:
        raise ValueError(f"at most {MAX_DIGESTS} digests, sorted by slot, each slot once")
    rows = (
        _DIGEST_ROW.pack(
            digest.kind, digest.node_id, digest.body_size, digest.body_hash, digest.signature
        )
        for digest in seen.digests
    )
    return _U32.pack(len(slots)) + b"".join(rows)


def decode_seen_records(raw: bytes) -> SeenRecords:
    """Parse a sighting's body. Raises InvalidRecord. No signature in it is checked here."""
    _check_between(raw, _U32.size, MAX_BODY_SIZES[RecordKind.SIGHTING])
    (count,) = _U32.unpack_from(raw)
    _check_exact(raw, _U32.size + count * _DIGEST_ROW.size)
    digests, previous = [], (0, -1)
    for kind, node_id, *rest in _DIGEST_ROW.iter_unpack(raw[_U32.size :]):
        known_kind = _DIGEST_KINDS.get(kind)
        if known_kind is None:
            raise InvalidRecord(Reason.WRONG_KIND, f"a digest of kind {kind}")
        if (kind, node_id) <= previous:
            raise InvalidRecord(Reason.MALFORMED, "digests are not sorted by slot")
        digests.append(RecordDigest(known_kind, SubnetNodeId(node_id), *rest))
        previous = (kind, node_id)
    return SeenRecords(tuple(digests))


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
    RecordKind.SCORE_COMMIT: decode_score_commit,
    RecordKind.SCORE_REVEAL: decode_score_reveal,
    RecordKind.SIGHTING: decode_seen_records,
}


def _decode_range(start: int, end: int) -> LayerRange:
    if not start < end <= MAX_LAYER_END:
        raise InvalidRecord(Reason.WRONG_RANGE, f"[{start}, {end})")
    return LayerRange(start, end)


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
