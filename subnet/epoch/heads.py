"""Which heads to believe: the chain cannot outrun its own pace, and seldom goes back far.

One endpoint that tells of a block far in the future, by fault or by malice, must not carry the
node out of the present. A head counts at once if it is in line with the last one: no further
ahead than time allows, no further behind than a chain reorganises. What is out of line counts
once several answers in a row agree on it, so that no mistake, of an endpoint, of this filter or
of the machine's clock, outlasts a few questions.
"""

from __future__ import annotations

from dataclasses import dataclass

from subnet.epoch.interfaces import BlockInfo

MAX_BLOCKS_AHEAD = 10
"""Beyond what time allows: clocks differ, and blocks that were held up arrive together."""
MAX_BLOCKS_BACK = 10
"""How far a chain reorganises before it counts as another story."""
CONFIRMATIONS = 3
"""So many answers in a row, none below the one before, make what is out of line believed."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head, when it came (seconds of the wall clock), and by how much it may be surpassed."""

    head: BlockInfo
    at_s: float
    max_ahead: int = MAX_BLOCKS_AHEAD


class HeadFilter:
    """Keeps the head that is believed.

    ``known`` is a block of the past to begin with. The first head may be ``known_ahead`` blocks
    further ahead of it than time allows, because nobody has seen yet how fast this chain is.
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
        """The newest head that is believed; None before the first."""

    def take(self, head: BlockInfo, *, now_s: float) -> bool:
        """Return whether ``head`` is to be worked with: believed, and above the one before."""
        seen = _Seen(head, now_s)
        if self._believed is not None and not self._is_in_line(seen, self._believed):
            return self._doubt(seen)
        self._doubted = None
        # A head a little lower is a chain that reorganises; phases do not run backwards for that.
        if self.head is not None and head.number <= self.head.number:
            return False
        self._believe(seen)
        return True

    @property
    def is_doubting(self) -> bool:
        """Whether the last head taken was out of line."""
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
        # The earlier head may itself be old: an endpoint that was behind catches up in a leap.
        passed_s = max(0.0, seen.at_s - earlier.at_s, seen.at_s - earlier.head.timestamp_s)
        ahead = seen.head.number - earlier.head.number
        unexplained = max(0, ahead - earlier.max_ahead)
        return ahead >= -MAX_BLOCKS_BACK and unexplained * self._block_time_s <= passed_s
