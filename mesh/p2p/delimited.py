"""The little of protobuf that libp2p's small protocols need: messages behind their length.

Only numbers and byte strings are read. The bytes come from a peer, so a message's size is checked
before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.p2p.channel import Channel

MAX_ANSWER_SIZE = 4096
_MAX_VARINT_BYTES = 10
_MAX_LENGTH_BYTES = 5
_VARINT, _BYTES = 0, 2


def read_length(prefix: bytes) -> int | None:
    """Return the length of the message that follows; None while ``prefix`` is not complete.

    Raises ValueError for one that is too long.
    """
    if not prefix or prefix[-1] > 0x7F:
        if len(prefix) >= _MAX_LENGTH_BYTES:
            raise ValueError("a length is malformed")
        return None
    size, _ = read_number(prefix, 0)
    if size > MAX_ANSWER_SIZE:
        raise ValueError(f"an answer of {size} bytes is too large")
    return size


async def receive_message(channel: Channel) -> bytes:
    """Return the next message. Raises ChannelClosed or ValueError."""
    prefix = b""
    while (size := read_length(prefix)) is None:
        prefix += await channel.read_exactly(1)
    return await channel.read_exactly(size)


def encode_message(message: bytes) -> bytes:
    """Return a message behind its length."""
    return encode_varint(len(message)) + message


def encode_number(number: int, value: int) -> bytes:
    """Return the field ``number`` with a number that is not negative."""
    return encode_varint(number << 3 | _VARINT) + encode_varint(value)


def encode_field(number: int, value: bytes) -> bytes:
    """Return the field ``number`` with bytes, which may be a message."""
    return encode_varint(number << 3 | _BYTES) + encode_varint(len(value)) + value


def encode_varint(value: int) -> bytes:
    """Return a number that is not negative, seven bits in a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_number(raw: bytes, place: int) -> tuple[int, int]:
    """Return a number and where it ends. Raises ValueError."""
    value = 0
    for index, byte in enumerate(raw[place : place + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number is cut off or too long")


def read_fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message with their numbers. Raises ValueError."""
    place = 0
    while place < len(raw):
        tag, place = read_number(raw, place)
        value, place = read_number(raw, place)
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _BYTES and place + value <= len(raw):
            yield tag >> 3, raw[place : place + value]
            place += value
        else:
            raise ValueError("a field is cut off or of another type")
