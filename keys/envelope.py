"""The canonical signed envelope: the form of every record that other nodes keep.

Fixed-width little-endian fields, then the body, then an Ed25519 signature over
a domain tag, the fields and the body's hash. One value has one encoding, so
trailing or missing bytes are an error and a hash names a record. Because the body
enters the signature as its hash, the fields and the hash alone prove who signed it
(``SignedHeader``), without the body.

It sits beside the keys because ``mesh`` and ``consensus`` both use it: for
announcements of servers, and for commits and reveals.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from functools import cached_property

from keys.errors import BadEnvelope
from keys.peer import SIGNATURE_SIZE, PeerId, PeerKey

MAGIC = b"MESH"
VERSION = 1
NETWORK_ID_SIZE = 32
HASH_SIZE = 32
MAX_BODY_SIZE = 1 << 20
_SIGNATURE_TAG = b"mesh/envelope/1"
_HASH_TAG = b"mesh/record"
_KEY_TAG = b"mesh/rec"
# magic, version, kind, network_id, epoch, expires_at, node_id, author, body length
_HEADER = struct.Struct("<4sBB32sIQI32sI")
HEADER_SIZE = _HEADER.size
OVERHEAD = HEADER_SIZE + SIGNATURE_SIZE


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """An envelope without its body: exactly what its author's signature covers."""

    kind: int
    network_id: bytes
    epoch: int
    expires_at: int
    node_id: int
    author: PeerId
    body_size: int
    body_hash: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the fields before the body."""
        return _pack_header(self, self.body_size)

    def get_message(self) -> bytes:
        """Return what is signed: tag, fields, SHA-256 of the body."""
        return _SIGNATURE_TAG + self.to_bytes() + self.body_hash

    def check_signature(self) -> None:
        """Raise BadSignature unless the author signed such an envelope."""
        self.author.check_signature(self.get_message(), self.signature)


@dataclass(frozen=True)
class Envelope:
    """One signed statement.

    ``expires_at`` is in whole seconds since 1970; ``node_id`` is the author's
    subnet node id, 0 for a client or a bootstrap node. What follows from the fields is
    computed once: a node asks for a record's hash wherever it meets the record.
    """

    kind: int
    network_id: bytes
    epoch: int
    expires_at: int
    node_id: int
    author: PeerId
    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, signature included."""
        return self.unsigned_bytes() + self.signature

    def unsigned_bytes(self) -> bytes:
        """Return all bytes but the signature."""
        return _pack_header(self, len(self.body)) + self.body

    @cached_property
    def header(self) -> SignedHeader:
        """The fields and the body's hash: what proves, without the body, that the author signed."""
        return SignedHeader(
            self.kind,
            self.network_id,
            self.epoch,
            self.expires_at,
            self.node_id,
            self.author,
            len(self.body),
            hashlib.sha256(self.body).digest(),
            self.signature,
        )

    @cached_property
    def record_hash(self) -> bytes:
        """SHA-256 of the envelope without its signature: what others name it by."""
        return hashlib.sha256(_HASH_TAG + self.unsigned_bytes()).digest()

    @cached_property
    def key(self) -> bytes:
        """The one key that this envelope may be stored under."""
        return compute_record_key(self.network_id, self.kind, self.epoch, self.author)

    def check_signature(self) -> None:
        """Raise BadSignature unless the author signed this envelope."""
        self.header.check_signature()


def _pack_header(statement: SignedHeader | Envelope, body_size: int) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        statement.kind,
        statement.network_id,
        statement.epoch,
        statement.expires_at,
        statement.node_id,
        statement.author.public_key,
        body_size,
    )


def compute_record_key(network_id: bytes, kind: int, epoch: int, author: PeerId) -> bytes:
    """Return the storage key of ``author``'s record of this kind and epoch.

    One key per slot and author, so readers enumerate the roster and need no directory.
    """
    slot = bytes([kind]) + epoch.to_bytes(4, "little")
    return _KEY_TAG + network_id + slot + author.public_key


def seal(
    key: PeerKey,
    *,
    kind: int,
    network_id: bytes,
    epoch: int,
    expires_at: int,
    node_id: int,
    body: bytes,
) -> Envelope:
    """Sign ``body`` as ``key``'s statement. Raises ValueError for fields out of range."""
    if len(network_id) != NETWORK_ID_SIZE:
        raise ValueError("a network id has 32 bytes")
    if len(body) > MAX_BODY_SIZE:
        raise ValueError(f"a body has at most {MAX_BODY_SIZE} bytes, not {len(body)}")
    unsigned = Envelope(kind, network_id, epoch, expires_at, node_id, key.peer_id, body, b"")
    try:
        message = unsigned.header.get_message()
    except struct.error as error:
        raise ValueError(f"an envelope field is out of range: {error}") from error
    return replace(unsigned, signature=key.sign(message))


def decode_envelope(raw: bytes, *, max_body_size: int = MAX_BODY_SIZE) -> Envelope:
    """Parse canonical bytes; the size is checked before anything else.

    The signature is *not* verified: cheap refusals come first, then
    :meth:`Envelope.check_signature`. Raises BadEnvelope.
    """
    if not OVERHEAD <= len(raw) <= OVERHEAD + max_body_size:
        raise BadEnvelope(f"an envelope has {OVERHEAD} to {OVERHEAD + max_body_size} bytes")
    magic, version, kind, network_id, epoch, expires_at, node_id, author, body_size = (
        _HEADER.unpack_from(raw)
    )
    if magic != MAGIC:
        raise BadEnvelope("the magic bytes are not MESH")
    if version != VERSION:
        raise BadEnvelope(f"envelope version {version} is not {VERSION}")
    if len(raw) != OVERHEAD + body_size:
        raise BadEnvelope("the body length does not match the size")
    body_end = HEADER_SIZE + body_size
    return Envelope(
        kind,
        network_id,
        epoch,
        expires_at,
        node_id,
        PeerId(author),
        raw[HEADER_SIZE:body_end],
        raw[body_end:],
    )
