"""The form of a value inside hivemind: one canonical msgpack byte string.

Whatever is not exactly that is refused before hivemind decodes it: an undecodable value would
hang every reader.
"""

from __future__ import annotations

import struct

from mesh.p2p.interface import MAX_RECORD_SIZE

# msgpack's byte strings: type byte, then the big-endian length in one, two or four bytes.
_MSGPACK_BYTES = {0xC4: struct.Struct(">B"), 0xC5: struct.Struct(">H"), 0xC6: struct.Struct(">I")}
_MSGPACK_MIN_SIZE = {0xC4: 0, 0xC5: 1 << 8, 0xC6: 1 << 16}


def decode_value(raw: bytes) -> bytes | None:
    """Return the bytes inside a canonical msgpack byte string, None for anything else."""
    if not 2 <= len(raw) <= MAX_RECORD_SIZE + 5:
        return None
    length = _MSGPACK_BYTES.get(raw[0])
    if length is None or len(raw) < 1 + length.size:
        return None
    start = 1 + length.size
    (size,) = length.unpack_from(raw, 1)
    is_canonical = len(raw) - start == size and size >= _MSGPACK_MIN_SIZE[raw[0]]
    return raw[start:] if is_canonical else None
