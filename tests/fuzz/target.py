"""What is asked of every decoder, whatever its bytes are.

It returns a value or raises its own error, nothing else. What it accepts is encoded again: to the
same bytes where the format has one encoding for a value, else to bytes that mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


class Broken(AssertionError):
    """A decoder took bytes that its own encoder would not have written so."""


@dataclass(frozen=True)
class Target:
    """One decoder. ``errors`` are all that it may raise; ``max_size`` bounds what is tried.

    ``encode`` undoes ``decode``, where there is such a function; ``is_canonical`` says that the
    format has one encoding for a value. ``memory_factor`` bounds what one input may allocate: so
    many times its size, and ``memory_floor`` bytes.
    """

    name: str
    decode: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    make_seeds: Callable[[], Iterable[bytes]]
    max_size: int = 4096
    encode: Callable[[Any], bytes] | None = None
    is_canonical: bool = True
    memory_factor: int = 64
    memory_floor: int = 1 << 20

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        """Valid encodings, from which inputs are bred."""
        return tuple(dict.fromkeys(self.make_seeds()))

    def compute_max_memory(self, size: int) -> int:
        """Return how many bytes the decoder may allocate for an input of ``size`` bytes."""
        return self.memory_floor + self.memory_factor * size

    def check(self, raw: bytes) -> bool:
        """Return whether the decoder takes ``raw``.

        Raises Broken for what does not survive the round trip, and lets every error through that
        is not one of ``errors``.
        """
        try:
            value = self.decode(raw)
        except self.errors:
            return False
        if self.encode is not None:
            self._check_round_trip(raw, value)
        return True

    def find_refusal(self, raw: bytes) -> Exception | None:
        """Return the error with which the decoder refuses ``raw``, None if it takes it."""
        try:
            self.decode(raw)
        except self.errors as error:
            return error
        return None

    def _check_round_trip(self, raw: bytes, value: Any) -> None:
        assert self.encode is not None
        again = self.encode(value)
        if self.is_canonical:
            if again != raw:
                raise Broken(f"{self.name}: {raw.hex()} decodes, and is {again.hex()} again")
        elif not _is_same(self.decode(again), value):
            raise Broken(f"{self.name}: {raw.hex()} means something else once it is encoded again")


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or the same text.

    A NaN, which formats with floats may carry, equals nothing; the text of a set has no order.
    """
    return bool(one == other) or repr(one) == repr(other)
