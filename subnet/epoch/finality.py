"""Which blocks are final, asked for only when the answer may have changed."""

from __future__ import annotations

from consensus.types import BlockNumber
from subnet.epoch.interfaces import ChainReader

MAX_LAG = 3
"""Blocks. What finality lags is learned, and believed up to this: it recovers after a stall."""


class Finality:
    """The newest final block that is known, and how far it was behind the head."""

    def __init__(self, reader: ChainReader) -> None:
        self._reader = reader
        self._final = BlockNumber(-1)
        self._lag = 0

    async def fetch_is_final(self, block: BlockNumber, *, head: BlockNumber) -> bool:
        """Return whether ``block`` is final at ``head``. Raises ChainUnavailable."""
        if block > self._final and block <= head - self._lag:
            final = await self._reader.fetch_finalised_number()
            self._final = max(self._final, final)
            self._lag = max(0, min(head - final, MAX_LAG))
        return block <= self._final
