"""Encoding of storage keys: twox128 of pallet and item, then each hashed key part."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import xxhash

from devchain.pallets import STORAGE_ITEMS
from devchain.scale import Reader, ScaleError
from devchain.state import Hasher, Item, Key

PREFIX_SIZE = 32
_HASH_SIZES = {Hasher.BLAKE2_128_CONCAT: 16, Hasher.TWOX_64_CONCAT: 8, Hasher.IDENTITY: 0}


def twox(data: bytes, *, bits: int) -> bytes:
    """Return xxh64 with seeds 0, 1, ... as the chain's fast hash."""
    parts = (xxhash.xxh64(data, seed=seed).intdigest() for seed in range(bits // 64))
    return b"".join(part.to_bytes(8, "little") for part in parts)


@functools.cache
def hash_prefix(item: Item[Any]) -> bytes:
    """Return the 32 bytes with which every key of the item begins."""
    return twox(item.pallet.encode(), bits=128) + twox(item.name.encode(), bits=128)


def hash_key(item: Item[Any], key: Key) -> bytes:
    """Return the whole key of one entry, or of a prefix of its key parts."""
    raw = hash_prefix(item)
    for part, value in zip(item.keys, key, strict=False):
        encoded = part.kind.encode(value)
        raw += _hash_part(part.hasher, encoded) + encoded
    return raw


def _hash_part(hasher: Hasher, encoded: bytes) -> bytes:
    if hasher is Hasher.BLAKE2_128_CONCAT:
        return hashlib.blake2b(encoded, digest_size=16).digest()
    if hasher is Hasher.TWOX_64_CONCAT:
        return twox(encoded, bits=64)
    return b""


@functools.cache
def _items_by_prefix() -> dict[bytes, Item[Any]]:
    return {hash_prefix(item): item for item in STORAGE_ITEMS}


def parse_key(raw: bytes) -> tuple[Item[Any], Key] | None:
    """Return the entry that a complete key names; None if it names nothing."""
    item = _items_by_prefix().get(raw[:PREFIX_SIZE])
    if item is None:
        return None
    reader = Reader(raw[PREFIX_SIZE:])
    try:
        key = []
        for part in item.keys:
            reader.take(_HASH_SIZES[part.hasher])
            key.append(part.kind.decode(reader))
    except ScaleError:
        return None
    # The hashes are checked by making the key again.
    return (item, tuple(key)) if hash_key(item, tuple(key)) == raw else None


def items_below(prefix: bytes) -> list[Item[Any]]:
    """Return the items that may have keys beginning with ``prefix``."""
    return [
        item
        for start, item in _items_by_prefix().items()
        if start.startswith(prefix) or prefix.startswith(start)
    ]
