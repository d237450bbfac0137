"""Parsing of extrinsics and checking of their signatures.

Signed: compact length, 0x84, account(20), signature(65), era, compact nonce, compact
tip, call. The signature is secp256k1 over keccak256 of call, extra and additional
data, of its BLAKE2b-256 hash where that is longer than 256 bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from devchain.calls import Call, SetTimestamp
from devchain.errors import InvalidReason, InvalidTransaction
from devchain.pallets import CALL_TYPE, SPEC_VERSION, TRANSACTION_VERSION
from devchain.scale import ByteVec, Reader, ScaleError, decode_compact

MAX_EXTRINSIC_SIZE = 256 * 1024
SIGNED_V4 = 0x84
_UNSIGNED_V4 = 0x04
_ACCOUNT_SIZE = 20
_SIGNATURE_SIZE = 65
_MAX_PAYLOAD = 256
_MAX_U32, _MAX_U128 = 2**32 - 1, 2**128 - 1


@dataclass(frozen=True)
class Era:
    """The life of an extrinsic: ``period`` blocks from its birth, or without end if that is 0."""

    period: int = 0
    phase: int = 0

    def birth(self, current: int) -> int:
        """Return the block whose hash the signer put under the signature."""
        if not self.period:
            return 0
        return (max(current, self.phase) - self.phase) // self.period * self.period + self.phase


@dataclass(frozen=True)
class SignedExtrinsic:
    """One parsed signed extrinsic. ``extra`` and ``call_bytes`` are as they were signed."""

    raw: bytes
    signer: bytes
    signature: bytes
    era: Era
    nonce: int
    tip: int
    call: Call
    extra: bytes
    call_bytes: bytes

    @property
    def hash(self) -> bytes:
        """What names the extrinsic: the hash of its bytes with their length."""
        return blake2_256(self.raw)

    def check_signature(self, *, genesis_hash: bytes, era_hash: bytes) -> None:
        """Raise InvalidTransaction(BAD_PROOF) unless the signer signed it for this chain."""
        signed = self.call_bytes + self.extra
        payload = make_payload(signed, genesis_hash=genesis_hash, era_hash=era_hash)
        if recover_account(payload, self.signature) != self.signer:
            raise InvalidTransaction(InvalidReason.BAD_PROOF)


def blake2_256(data: bytes) -> bytes:
    """The chain's hash."""
    return hashlib.blake2b(data, digest_size=32).digest()


def make_payload(signed: bytes, *, genesis_hash: bytes, era_hash: bytes) -> bytes:
    """Return the message that is signed for a call and its extra: a hash of it if it is long."""
    versions = SPEC_VERSION.to_bytes(4, "little") + TRANSACTION_VERSION.to_bytes(4, "little")
    payload = signed + versions + genesis_hash + era_hash
    return blake2_256(payload) if len(payload) > _MAX_PAYLOAD else payload


def load_verifier() -> None:
    """Import what checks signatures: half a second that no client should wait for."""
    recover_account(b"", bytes(_SIGNATURE_SIZE))


def recover_account(message: bytes, signature: bytes) -> bytes | None:
    """Return the account that signed keccak256(``message``), or None."""
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature
    from eth_utils.crypto import keccak
    from eth_utils.exceptions import ValidationError

    recovery = signature[64]
    normalised = signature[:64] + bytes([recovery - 27 if recovery >= 27 else recovery])
    try:
        public_key = Signature(normalised).recover_public_key_from_msg_hash(keccak(message))
    except (BadSignature, ValidationError):
        return None
    return bytes(public_key.to_canonical_address())


def decode_extrinsic(raw: bytes) -> SignedExtrinsic:
    """Parse a signed extrinsic completely. Raises ScaleError."""
    reader = _open(raw, SIGNED_V4)
    signer = reader.take(_ACCOUNT_SIZE)
    signature = reader.take(_SIGNATURE_SIZE)
    extra_start = reader.position
    era = _decode_era(reader)
    nonce, tip = decode_compact(reader), decode_compact(reader)
    if nonce > _MAX_U32 or tip > _MAX_U128:
        raise ScaleError("nonce or tip is out of range")
    call_start = reader.position
    call = CALL_TYPE.decode(reader)
    if reader.remaining:
        raise ScaleError(f"{reader.remaining} bytes are left over")
    return SignedExtrinsic(
        raw=raw,
        signer=signer,
        signature=signature,
        era=era,
        nonce=nonce,
        tip=tip,
        call=call,
        extra=raw[extra_start:call_start],
        call_bytes=raw[call_start:],
    )


def _open(raw: bytes, version: int) -> Reader:
    """Check length and version; return a reader that stands behind them."""
    if len(raw) > MAX_EXTRINSIC_SIZE:
        raise ScaleError(f"an extrinsic has at most {MAX_EXTRINSIC_SIZE} bytes")
    reader = Reader(raw)
    if decode_compact(reader) != reader.remaining:
        raise ScaleError("the extrinsic's length does not match its size")
    if reader.take(1)[0] != version:
        raise ScaleError("only signed extrinsics of version 4 are accepted")
    return reader


def _decode_era(reader: Reader) -> Era:
    first = reader.take(1)[0]
    if not first:
        return Era()
    encoded = first | reader.take(1)[0] << 8
    period = 2 << (encoded % 16)
    phase = (encoded >> 4) * max(period >> 12, 1)
    if period < 4 or phase >= period:
        raise ScaleError("the era is not valid")
    return Era(period, phase)


def encode_timestamp(now_ms: int) -> bytes:
    """Return the inherent with which every block begins."""
    return ByteVec().encode(bytes([_UNSIGNED_V4]) + CALL_TYPE.encode(SetTimestamp(now_ms)))


def decode_timestamp(raw: bytes) -> int:
    """Return the milliseconds that a block's first extrinsic sets. Raises ScaleError."""
    reader = _open(raw, _UNSIGNED_V4)
    call = CALL_TYPE.decode(reader)
    if not isinstance(call, SetTimestamp) or reader.remaining:
        raise ScaleError("a block begins with its timestamp")
    return call.now
