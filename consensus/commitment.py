"""Commitments: a salted hash of what a node computed, published before the values.

A commitment binds network, epoch, author, challenge and range at fixed widths, so a
copied one does not open for another node, and none opens in two ways. Numbers are
little-endian u32, scores u128; tags are ASCII without a terminator.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from consensus.challenge import compute_owed_layers
from consensus.errors import CommitmentMismatch
from consensus.records import TAG_SIZE, ScoreRow, encode_score_rows
from consensus.types import Epoch, LayerRange, SubnetNodeId
from keys.envelope import HASH_SIZE, Envelope
from keys.peer import PeerId, PeerKey

SALT_SIZE = 32
_NO_LANE = bytes(HASH_SIZE)
"""The place of a leaf for personal lanes, which are not built."""
_LEAF_TAG = b"mesh/leaf"
_ROOT_TAG = b"mesh/root"
_OUTPUT_TAG = b"mesh/commit"
_SCORES_TAG = b"mesh/score-commit"
_AUDIT_TAG = b"mesh/audit-commit"
_SALT_TAG = b"mesh/salt"


@dataclass(frozen=True, slots=True)
class CommitContext:
    """Who commits, where and when: what every commitment binds."""

    network_id: bytes
    epoch: Epoch
    node_id: SubnetNodeId
    author: PeerId

    def __post_init__(self) -> None:
        if len(self.network_id) != HASH_SIZE:
            raise ValueError("a network id has 32 bytes")

    def to_bytes(self) -> bytes:
        """Return ``network_id || epoch || node_id || public key``, 72 bytes."""
        return self.network_id + _u32(self.epoch) + _u32(self.node_id) + self.author.public_key


def make_commit_context(envelope: Envelope) -> CommitContext:
    """Return what the commitment is bound to that the record in ``envelope`` opens."""
    return CommitContext(
        envelope.network_id,
        Epoch(envelope.epoch),
        SubnetNodeId(envelope.node_id),
        envelope.author,
    )


def derive_salt(
    key: PeerKey, *, network_id: bytes, kind: int, epoch: Epoch, node_id: SubnetNodeId
) -> bytes:
    """Return the 32-byte salt of this node's commitment of one record kind in one epoch.

    It is derived from the identity, so it survives the loss of the journal, and no other node
    can compute it.
    """
    if len(network_id) != HASH_SIZE:
        raise ValueError("a network id has 32 bytes")
    purpose = _SALT_TAG + network_id + kind.to_bytes(1, "little") + _u32(epoch) + _u32(node_id)
    return key.derive_secret(purpose)


def compute_leaf(layer: int, vector: bytes) -> bytes:
    """Return the leaf of one layer's encoded vector."""
    return hashlib.sha256(_LEAF_TAG + _u32(layer) + vector).digest()


def compute_root(layers: LayerRange, leaves: Sequence[bytes]) -> bytes:
    """Return the root over the leaves of ``layers``, in order; the head's is the last one."""
    if any(len(leaf) != HASH_SIZE for leaf in leaves):
        raise ValueError("a leaf has 32 bytes")
    message = _ROOT_TAG + _u32(layers.start) + _u32(layers.end) + b"".join(leaves) + _NO_LANE
    return hashlib.sha256(message).digest()


def compute_vectors_root(layers: LayerRange, vectors: Sequence[bytes], num_layers: int) -> bytes:
    """Return the root of the vectors that a hoster of ``layers`` owes, one a layer, head last.

    Raises ValueError for another number of vectors or a range that ends past the model.
    """
    owed = compute_owed_layers(layers, num_layers)
    if len(vectors) != len(owed):
        raise ValueError(f"the range {layers} owes {len(owed)} vectors, not {len(vectors)}")
    leaves = [compute_leaf(layer, raw) for layer, raw in zip(owed, vectors, strict=True)]
    return compute_root(layers, leaves)


def compute_output_commitment(
    context: CommitContext, *, seed: bytes, layers: LayerRange, salt: bytes, root: bytes
) -> bytes:
    """Return the 32 bytes that a hoster publishes during COMMIT."""
    if not len(seed) == len(root) == HASH_SIZE or len(salt) != SALT_SIZE:
        raise ValueError("seed, root and salt have 32 bytes")
    span = _u32(layers.start) + _u32(layers.end)
    message = _OUTPUT_TAG + context.to_bytes() + seed + span + salt + root
    return hashlib.sha256(message).digest()


def compute_score_commitment(
    context: CommitContext, *, salt: bytes, rows: Sequence[ScoreRow]
) -> bytes:
    """Return the 32 bytes that a validator publishes in its sighting."""
    if len(salt) != SALT_SIZE:
        raise ValueError("a salt has 32 bytes")
    digest = hashlib.sha256(encode_score_rows(rows)).digest()
    return hashlib.sha256(_SCORES_TAG + context.to_bytes() + salt + digest).digest()


def compute_audit_commitment(
    context: CommitContext,
    *,
    draw: bytes,
    salt: bytes,
    layers: Sequence[int],
    vectors: Sequence[bytes],
) -> bytes:
    """Return the 32 bytes that a validator publishes during AUDIT.

    ``draw`` is the hash of the block that drew ``layers``; ``vectors`` answer them in order.
    """
    if len(draw) != HASH_SIZE or len(salt) != SALT_SIZE:
        raise ValueError("draw and salt have 32 bytes")
    if len(vectors) != len(layers):
        raise ValueError(f"{len(layers)} drawn layers have as many vectors, not {len(vectors)}")
    leaves = [compute_leaf(layer, raw) for layer, raw in zip(layers, vectors, strict=True)]
    message = _AUDIT_TAG + context.to_bytes() + draw + salt + b"".join(leaves)
    return hashlib.sha256(message).digest()


def compute_tag(validator: SubnetNodeId, reveal_hash: bytes) -> bytes:
    """Return what proves that ``validator`` had the reveal of this hash: 8 bytes of SHA-256.

    Sightings show the first 16 bytes of the hash only, so the tag cannot be computed from one.
    """
    if len(reveal_hash) != HASH_SIZE:
        raise ValueError("a record hash has 32 bytes")
    return hashlib.sha256(_u32(validator) + reveal_hash).digest()[:TAG_SIZE]


def check_output_reveal(
    commitment: bytes,
    context: CommitContext,
    *,
    seed: bytes,
    layers: LayerRange,
    salt: bytes,
    vectors: Sequence[bytes],
    num_layers: int,
) -> None:
    """Raise CommitmentMismatch unless salt and encoded vectors open ``commitment``.

    ``seed`` is this node's own, derived from the chain, and ``layers`` the range of the reveal;
    a commit to another challenge or range therefore opens nothing.
    """
    try:
        root = compute_vectors_root(layers, vectors, num_layers)
        expected = compute_output_commitment(
            context, seed=seed, layers=layers, salt=salt, root=root
        )
    except ValueError as error:
        raise CommitmentMismatch(str(error)) from error
    if not hmac.compare_digest(expected, commitment):
        raise CommitmentMismatch("the outputs do not open the commitment")


def check_score_reveal(
    commitment: bytes, context: CommitContext, *, salt: bytes, rows: Sequence[ScoreRow]
) -> None:
    """Raise CommitmentMismatch unless salt and rows open ``commitment``."""
    try:
        expected = compute_score_commitment(context, salt=salt, rows=rows)
    except ValueError as error:
        raise CommitmentMismatch(str(error)) from error
    if not hmac.compare_digest(expected, commitment):
        raise CommitmentMismatch("the scores do not open the commitment")


def check_audit_reveal(
    commitment: bytes,
    context: CommitContext,
    *,
    draw: bytes,
    salt: bytes,
    layers: Sequence[int],
    vectors: Sequence[bytes],
) -> None:
    """Raise CommitmentMismatch unless salt and vectors open ``commitment`` for this draw."""
    try:
        expected = compute_audit_commitment(
            context, draw=draw, salt=salt, layers=layers, vectors=vectors
        )
    except ValueError as error:
        raise CommitmentMismatch(str(error)) from error
    if not hmac.compare_digest(expected, commitment):
        raise CommitmentMismatch("the reference rows do not open the commitment")


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
