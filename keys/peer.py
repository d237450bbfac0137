"""Ed25519 peer identities as libp2p names them.

A peer id of an Ed25519 key is the identity multihash of the key's protobuf,
so it contains the public key and no directory is needed:
``00 24 08 01 12 20 || public key`` (libp2p peer-id specification).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Self

import base58
from nacl.bindings import crypto_scalarmult
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from keys.errors import BadPeerId, BadSignature

PUBLIC_KEY_SIZE = 32
SEED_SIZE = 32
SIGNATURE_SIZE = 64
MAX_PEER_ID_TEXT = 64
_PEER_ID_PREFIX = bytes.fromhex("002408011220")


@dataclass(frozen=True, order=True, slots=True)
class PeerId:
    """The public half of a peer identity.

    ``public_key`` is the 32-byte Ed25519 key.
    """

    public_key: bytes

    def __post_init__(self) -> None:
        if len(self.public_key) != PUBLIC_KEY_SIZE:
            raise BadPeerId(f"an Ed25519 public key has 32 bytes, not {len(self.public_key)}")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse the 38-byte multihash. Raises BadPeerId."""
        if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_SIZE or not raw.startswith(
            _PEER_ID_PREFIX
        ):
            raise BadPeerId("not the peer id of an Ed25519 key")
        return cls(raw[len(_PEER_ID_PREFIX) :])

    @classmethod
    def from_base58(cls, text: str) -> Self:
        """Parse ``12D3KooW...``. Raises BadPeerId.

        One key has one text: the decoder skips white space at the end, and a chain that compares
        texts would register the same key again under another node's name.
        """
        if not 0 < len(text) <= MAX_PEER_ID_TEXT:
            raise BadPeerId("a peer id has 1 to 64 characters")
        try:
            raw = base58.b58decode(text)
        except ValueError as error:
            raise BadPeerId("a peer id is base58 text") from error
        peer_id = cls.from_bytes(raw)
        if peer_id.to_base58() != text:
            raise BadPeerId("a peer id has nothing behind its base58 text")
        return peer_id

    def to_bytes(self) -> bytes:
        """Return the 38-byte multihash."""
        return _PEER_ID_PREFIX + self.public_key

    def to_base58(self) -> str:
        """Return the text form, ``12D3KooW...``."""
        return base58.b58encode(self.to_bytes()).decode("ascii")

    def __str__(self) -> str:
        return self.to_base58()

    def to_x25519(self) -> bytes:
        """Return the key's X25519 form (RFC 7748). Raises BadPeerId for a point of small order."""
        try:
            return bytes(VerifyKey(self.public_key).to_curve25519_public_key())
        except CryptoError as error:
            raise BadPeerId("the key has no X25519 form") from error

    def check_signature(self, message: bytes, signature: bytes) -> None:
        """Raise BadSignature unless this peer signed ``message``.

        libsodium's strict verification: small-order keys and non-canonical
        scalars are refused (RFC 8032, section 5.1.7).
        """
        if len(signature) != SIGNATURE_SIZE:
            raise BadSignature("an Ed25519 signature has 64 bytes")
        try:
            VerifyKey(self.public_key).verify(message, signature)
        except BadSignatureError as error:
            raise BadSignature("the signature does not verify") from error


class PeerKey:
    """The private half of a peer identity. It has no repr and cannot be pickled."""

    __slots__ = ("_signing_key", "peer_id")

    def __init__(self, seed: bytes) -> None:
        self._signing_key = SigningKey(seed)
        self.peer_id = PeerId(bytes(self._signing_key.verify_key))

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the operating system's randomness."""
        return cls(bytes(SigningKey.generate()))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``message``."""
        return self._signing_key.sign(message).signature

    def agree(self, public: bytes) -> bytes:
        """Return the X25519 secret that this key shares with ``public``. Raises BadPeerId."""
        secret = bytes(self._signing_key.to_curve25519_private_key())
        try:
            return crypto_scalarmult(secret, public)
        except CryptoError as error:
            raise BadPeerId("the X25519 key is of small order") from error

    def derive_secret(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes for ``purpose``: HMAC-SHA256(seed, purpose).

        Derived, so that a salt survives the loss of the file that recorded it.
        """
        return hmac.digest(bytes(self._signing_key), purpose, hashlib.sha256)

    def to_libp2p(self) -> bytes:
        """Return the 68 bytes that p2pd reads: a libp2p PrivateKey protobuf."""
        return b"\x08\x01\x12\x40" + bytes(self._signing_key) + self.peer_id.public_key

    def __repr__(self) -> str:
        return f"<PeerKey of {self.peer_id}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not serialised")
