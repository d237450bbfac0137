"""The time from block to block: what the metadata says, and what is seen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain

DEFAULT_BLOCK_TIME_MS = 6_000
"""Hypertensor's; taken for a chain that names none, such as the development chain."""

MIN_PACE_S = 0.25
GAPS_SEEN = 8


async def fetch_block_time_ms(chain: SubstrateChain) -> int:
    """Return the target time between blocks: twice Timestamp.MinimumPeriod."""
    return await chain.query(lambda session: session.block_time_ms)


class Pace:
    """How far apart heads arrive: the longest of the last gaps, at most the target time.

    A development chain makes blocks faster than its metadata says, so a client that waits for
    the target time would miss many of them.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._gaps: deque[float] = deque(maxlen=GAPS_SEEN)
        self._last_s: float | None = None

    def note_head(self, now_s: float) -> None:
        """Take note of a new head at ``now_s`` on a monotonic clock."""
        if self._last_s is not None:
            self._gaps.append(now_s - self._last_s)
        self._last_s = now_s

    @property
    def block_s(self) -> float:
        """The time in which the next block is due, in seconds."""
        if len(self._gaps) < GAPS_SEEN:
            return self._target_s
        return min(self._target_s, max(MIN_PACE_S, *self._gaps))
