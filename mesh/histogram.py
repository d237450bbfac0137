"""Counts of measured values in fixed buckets, cheap enough to be kept for every token."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass

SECONDS_OF_A_STEP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets for one step through a range of layers, and for the time between two tokens."""
SECONDS_OF_A_REQUEST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Buckets for a whole request, a first token and a call of a chain endpoint."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a histogram held at one moment.

    ``counts[i]`` are the values of at most ``bounds[i]`` and above the bound before it; the last
    count is of those above every bound.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """How many values fell between two bounds, and their sum. Any thread may add."""

    __slots__ = ("_bounds", "_counts", "_lock", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._lock = threading.Lock()
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._total += value

    def read(self) -> Measured:
        """Return what was counted so far."""
        with self._lock:
            return Measured(self._bounds, tuple(self._counts), self._total)
