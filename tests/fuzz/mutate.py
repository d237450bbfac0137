"""Breeds inputs from valid encodings: mostly right, so that they come past the first check."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MAX_CHANGES = 4
_EDGES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64)
_NESTED: list[Any] = []
for _ in range(50):
    _NESTED = [_NESTED]
_JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**63) - 1, 10**400, 10**4200),
    *(0.5, -0.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")),
    *("", "0", "0x", "0x0", "0xzz", "0x" + "ff" * 64, "-1", "1e9", "\x00", "\ud800", "é\u202e"),
    *([], [None], [[]], [0, 1], {}, {"": None}, {"id": 1}, _NESTED),
)
_TEXTS = (b"[" * 3000, b'{"a":' * 3000, b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"1" * 5000, b"-")
Change = Callable[[bytes, Random], bytes]


def mutate(raw: bytes, random: Random, *, max_size: int, others: Sequence[bytes] = ()) -> bytes:
    """Return ``raw`` with a few changes, at most ``max_size`` bytes.

    ``others`` are encodings of the same kind, whose parts are put in.
    """
    for _ in range(random.randint(1, MAX_CHANGES)):
        if b"{" in raw and random.random() < 0.7:
            raw = _change_line(raw, random)
        elif others and random.random() < 0.1:
            raw = _splice(raw, random.choice(others), random)
        else:
            raw = random.choice(_CHANGES)(raw, random)
    return raw[:max_size]


def _flip_bit(raw: bytes, random: Random) -> bytes:
    if not raw:
        return raw
    place = random.randrange(len(raw))
    return _put(raw, place, bytes([raw[place] ^ 1 << random.randrange(8)]))


def _set_byte(raw: bytes, random: Random) -> bytes:
    return _put(raw, _choose_place(raw, random), bytes([random.randrange(256)]))


def _set_number(raw: bytes, random: Random) -> bytes:
    """Write a number at the edge of a type, a size or a count, in either order of bytes."""
    width = random.choice((1, 2, 4, 8))
    number = random.choice((*_EDGES, len(raw), random.randrange(64)))
    number = (number + random.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    order = random.choice(("little", "little", "little", "big"))
    changed = number.to_bytes(width, "big" if order == "big" else "little")
    return _put(raw, _choose_place(raw, random), changed)


def _cut(raw: bytes, random: Random) -> bytes:
    return raw[: random.randrange(len(raw) + 1)]


def _append(raw: bytes, random: Random) -> bytes:
    return raw + random.randbytes(random.choice((1, 1, 2, 4, 32, 300)))


def _remove(raw: bytes, random: Random) -> bytes:
    start, end = _choose_part(raw, random)
    return raw[:start] + raw[end:]


def _repeat(raw: bytes, random: Random) -> bytes:
    start, end = _choose_part(raw, random)
    return raw[:end] + raw[start:end] * random.choice((1, 1, 2, 20)) + raw[end:]


def _insert(raw: bytes, random: Random) -> bytes:
    place = random.randrange(len(raw) + 1)
    return raw[:place] + random.randbytes(random.randint(1, 8)) + raw[place:]


def _insert_text(raw: bytes, random: Random) -> bytes:
    place = random.randrange(len(raw) + 1)
    return raw[:place] + random.choice(_TEXTS) + raw[place:]


def _fill(raw: bytes, random: Random) -> bytes:
    start, end = _choose_part(raw, random)
    return _put(raw, start, bytes([random.choice((0, 255))]) * (end - start))


_CHANGES: tuple[Change, ...] = (
    *(_flip_bit, _set_byte, _set_number, _set_number, _set_number),
    *(_cut, _append, _remove, _repeat, _insert, _insert_text, _fill),
)


def _splice(raw: bytes, other: bytes, random: Random) -> bytes:
    start, end = _choose_part(other, random)
    place = random.randrange(len(raw) + 1)
    return raw[:place] + other[start:end] + raw[place + random.choice((0, end - start)) :]


def _put(raw: bytes, place: int, part: bytes) -> bytes:
    return raw[:place] + part + raw[place + len(part) :]


def _choose_place(raw: bytes, random: Random) -> int:
    """Return a place; counts and sizes stand in front, so those are tried more often."""
    return random.randrange(min(len(raw), random.choice((8, 80, len(raw) + 1))) + 1)


def _choose_part(raw: bytes, random: Random) -> tuple[int, int]:
    start = _choose_place(raw, random)
    return start, min(len(raw), start + random.choice((1, 2, 4, 8, 32, 200)))


def _change_line(raw: bytes, random: Random) -> bytes:
    """Change one line that is JSON, in text of one line or more."""
    lines = raw.split(b"\n")
    places = [place for place, line in enumerate(lines) if line[:1] in (b"{", b"[")]
    if not places:
        return _set_byte(raw, random)
    place = random.choice(places)
    try:
        lines[place] = _change_json(lines[place], random)
    except (ValueError, RecursionError):
        return _set_byte(raw, random)
    return b"\n".join(lines)


def _change_json(raw: bytes, random: Random) -> bytes:
    """Change one value inside JSON, or leave it out, or give it a second time.

    Raises ValueError or RecursionError where that cannot be.
    """
    document = json.loads(raw)
    places = _list_places(document)
    if not places:
        return json.dumps(random.choice(_JSON_VALUES)).encode()
    holder, key = random.choice(places)
    does = random.random()
    if does < 0.15:
        del holder[key]
    elif does < 0.3:
        donor, place = random.choice(places)
        # A copy: a value inside itself would be endless.
        holder[key] = json.loads(json.dumps(donor[place]))
    elif does < 0.4 and isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 2, 300)))
    elif does < 0.5 and isinstance(holder[key], str):
        holder[key] = _change_text(holder[key], random)
    else:
        holder[key] = random.choice(_JSON_VALUES)
    return json.dumps(document, separators=(",", ":")).encode()


def _change_text(text: str, random: Random) -> str:
    place = random.randrange(len(text) + 1)
    put = random.choice(("\x00", "\ud800", "0", "f", " ", "é", "x" * 300, "/", ".", "-"))
    return text[:place] + put + text[place + random.randrange(3) :]


def _list_places(document: Any) -> list[tuple[Any, Any]]:
    """Return (holder, key or index) of every value inside lists and objects."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys: Sequence[Any] = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(len(holder))
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return places
