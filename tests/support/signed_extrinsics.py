"""Extrinsics signed by a key, as a client would make them, right and wrong ones."""

from __future__ import annotations

from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak

from devchain.calls import Call
from devchain.extrinsics import SIGNED_V4, blake2_256, make_payload
from devchain.pallets import CALL_TYPE
from devchain.scale import ByteVec, encode_compact
from keys.account import AccountKey


def encode_signed(
    call: Call,
    *,
    signer: AccountKey,
    nonce: int,
    genesis_hash: bytes,
    tip: int = 0,
    recovery_offset: int = 0,
    is_keccak: bool = True,
) -> bytes:
    """Build an immortal extrinsic of version 4.

    ``recovery_offset`` 27 is how Ethereum's tools write the signature's last byte. Without
    ``is_keccak`` the payload is hashed with BLAKE2b, which the chain refuses.
    """
    call_bytes = CALL_TYPE.encode(call)
    extra = b"\x00" + encode_compact(nonce) + encode_compact(tip)
    payload = make_payload(call_bytes + extra, genesis_hash=genesis_hash, era_hash=genesis_hash)
    digest = keccak(payload) if is_keccak else blake2_256(payload)
    raw = PrivateKey(signer.private_key()).sign_msg_hash(digest).to_bytes()
    signature = raw[:64] + bytes([raw[64] + recovery_offset])
    body = bytes([SIGNED_V4]) + signer.account_id + signature + extra + call_bytes
    return ByteVec().encode(body)
