"""A chain block, its header and their hashes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from devchain.extrinsics import blake2_256
from devchain.scale import ByteVec, encode_compact
from devchain.state import ABSENT, Item, Key
from devchain.storage_keys import hash_key


@dataclass(frozen=True)
class Block:
    """One sealed block. ``extrinsics`` begins with the timestamp, except in genesis."""

    number: int
    parent_hash: bytes
    state_root: bytes
    extrinsics: tuple[bytes, ...]
    hash: bytes

    @property
    def extrinsics_root(self) -> bytes:
        return compute_extrinsics_root(self.extrinsics)


def compute_extrinsics_root(extrinsics: tuple[bytes, ...]) -> bytes:
    """Hash the list of extrinsics; a list, not the trie of a production chain."""
    return blake2_256(encode_compact(len(extrinsics)) + b"".join(extrinsics))


def compute_state_root(parent_root: bytes, changes: Iterable[tuple[Item[Any], Key, Any]]) -> bytes:
    """Chain the hash of a block's changes to its parent's root.

    Like a trie's root it is the same for the same history, at the price of the
    changes instead of the whole state.
    """
    lines = sorted(
        (hash_key(item, key), _encode_change(item, value)) for item, key, value in changes
    )
    body = b"".join(ByteVec().encode(key) + value for key, value in lines)
    return blake2_256(parent_root + body)


def _encode_change(item: Item[Any], value: Any) -> bytes:
    return b"\x00" if value is ABSENT else b"\x01" + ByteVec().encode(item.kind.encode(value))


def seal_block(
    number: int, *, parent_hash: bytes, state_root: bytes, extrinsics: tuple[bytes, ...]
) -> Block:
    """Hash the SCALE header: parent, compact number, state root, extrinsics root, no digest."""
    header = parent_hash + encode_compact(number) + state_root
    header += compute_extrinsics_root(extrinsics) + b"\x00"
    return Block(number, parent_hash, state_root, extrinsics, blake2_256(header))
