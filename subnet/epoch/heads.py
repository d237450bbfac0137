"""Follows the chain's heads, and rejects implausible ones.

A head is implausible if it is too far ahead for the time that has passed, or more than
MAX_BLOCKS_BACK blocks behind the newest one. Without this check one endpoint that reports a block
far in the future, by fault or on purpose, would move the node into epochs that do not exist yet.
CONFIRMATIONS consistent answers in a row override the rejection, so that neither a mistake of this
filter nor a wrong clock stops the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from consensus.protocol_params import ConsensusParams
from consensus.roster import Roster
from subnet.epoch.interfaces import BlockInfo, ChainReader
from subnet.epoch.observer import Observe, Unavailable
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ChainUnavailable

MAX_BLOCKS_AHEAD = 10
"""Blocks beyond what the time allows: clocks differ, and delayed blocks arrive together."""
MAX_BLOCKS_BACK = 10
"""Depth of a reorganisation that is followed at once."""
CONFIRMATIONS = 3
"""Consistent answers in a row, none below the one before, that override a rejection."""
KNOWN_AHEAD_EPOCHS = 2
"""How far ahead of its newest roster a node may find the chain when it starts."""
RETRY_BLOCKS = 0.15
DOUBT_RETRY_BLOCKS = 0.03


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head, when it came (wall clock), and how many blocks further the next one may be."""

    head: BlockInfo
    at_s: float
    max_ahead: int = MAX_BLOCKS_AHEAD


class HeadFilter:
    """Keeps the newest accepted head.

    ``known`` is a block of the past to start from. The first head may be ``known_ahead`` blocks
    further ahead of it than the time allows, because the pace of this chain is not known yet.
    """

    def __init__(
        self, *, block_time_s: float, known: BlockInfo | None = None, known_ahead: int = 0
    ) -> None:
        self._block_time_s = block_time_s
        self._believed = (
            None if known is None else _Seen(known, known.timestamp_s, max_ahead=known_ahead)
        )
        self._doubted: _Seen | None = None
        self._confirmations = 0
        self.head: BlockInfo | None = None
        """The newest accepted head; None before the first."""

    def take(self, head: BlockInfo, *, now_s: float) -> bool:
        """Return whether ``head`` is accepted and above the one before."""
        seen = _Seen(head, now_s)
        if self._believed is not None and not self._is_in_line(seen, self._believed):
            return self._doubt(seen)
        self._doubted = None
        # A head that is a little lower is a reorganisation; phases never run backwards.
        if self.head is not None and head.number <= self.head.number:
            return False
        self._believe(seen)
        return True

    @property
    def is_doubting(self) -> bool:
        """Whether the last head was rejected as implausible."""
        return self._doubted is not None

    def _doubt(self, seen: _Seen) -> bool:
        doubted = self._doubted
        is_next = (
            doubted is not None
            and seen.head.number >= doubted.head.number
            and self._is_in_line(seen, doubted)
        )
        self._confirmations = self._confirmations + 1 if is_next else 1
        self._doubted = seen
        if self._confirmations < CONFIRMATIONS:
            return False
        self._believe(seen)
        return True

    def _believe(self, seen: _Seen) -> None:
        self._believed, self._doubted, self.head = seen, None, seen.head

    def _is_in_line(self, seen: _Seen, earlier: _Seen) -> bool:
        # The earlier head may itself be old: an endpoint that was behind catches up at once.
        passed_s = max(0.0, seen.at_s - earlier.at_s, seen.at_s - earlier.head.timestamp_s)
        ahead = seen.head.number - earlier.head.number
        unexplained = max(0, ahead - earlier.max_ahead)
        return ahead >= -MAX_BLOCKS_BACK and unexplained * self._block_time_s <= passed_s


async def follow_heads(
    reader: ChainReader,
    terms: SubnetTerms,
    *,
    newest: Roster | None,
    get_wall_time_s: Callable[[], float],
    observe: Observe,
) -> AsyncGenerator[BlockInfo, None]:
    """Yield each accepted head, starting from the first block of the ``newest`` roster.

    An outage or an implausible head is observed, and the chain is asked again.
    """
    heads = HeadFilter(
        block_time_s=terms.block_time_s,
        known=None
        if newest is None
        else BlockInfo(newest.first_block, newest.block_hash, newest.timestamp_s),
        known_ahead=KNOWN_AHEAD_EPOCHS * terms.epoch_length,
    )
    while True:
        pause_s = RETRY_BLOCKS * terms.block_time_s
        try:
            async with aclosing(reader.heads()) as answers:
                async for head in answers:
                    if heads.take(head, now_s=get_wall_time_s()):
                        yield head
                    elif heads.is_doubting:
                        detail = f"block {head.number} is out of line with the blocks before"
                        observe(Unavailable("chain", f"{detail}; asking again"))
                        # A chain that runs faster than it says, or that this machine has not
                        # followed for a while, is implausible too, and its phases do not wait.
                        pause_s = DOUBT_RETRY_BLOCKS * terms.block_time_s
                        break
        except ChainUnavailable as error:
            observe(Unavailable("chain", str(error)))
        await asyncio.sleep(pause_s)


def is_clock_right(head: BlockInfo, *, now_s: float, params: ConsensusParams) -> bool:
    """Return whether this machine's clock and the chain's agree well enough to take part."""
    return abs(now_s - head.timestamp_s) <= params.max_clock_skew_s
