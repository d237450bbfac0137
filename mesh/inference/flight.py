"""The windows that the first range has under way, the oldest first.

mesh/inference/rounds.py has the rules. No tensors and no clock are here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.inference.hops import Departure


@dataclass(frozen=True, slots=True)
class SentWindow:
    """A window that was handed to the engine, and when.

    ``token_ids`` are those of its rows. ``guess`` is what comes after them if they are right.
    """

    start: int
    token_ids: tuple[int, ...]
    guess: int | None
    departure: Departure
    handed_over_s: float

    @property
    def draft(self) -> tuple[int, ...]:
        return self.token_ids[1:]


@dataclass(frozen=True, slots=True)
class Landing:
    """What became of the oldest window: ``end`` is where the right tokens of the text end, but for
    the one chosen last; ``dropped`` windows were under way behind it in vain.
    """

    window: SentWindow
    end: int
    is_guessed: bool
    """Whether a window after it would have counted, or did."""
    goes_on: bool
    """Whether the next window is under way already, and counts."""
    dropped: int


class Flight:
    """Which windows are under way, and of which round."""

    def __init__(self) -> None:
        self.round = 0
        self._windows: deque[SentWindow] = deque()

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def oldest(self) -> SentWindow | None:
        return self._windows[0] if self._windows else None

    @property
    def newest(self) -> SentWindow | None:
        return self._windows[-1] if self._windows else None

    @property
    def ahead(self) -> tuple[int, ...]:
        """The drafts that are under way: what the text goes on with if all of them are right."""
        token_ids = [token_id for window in self._windows for token_id in window.token_ids]
        return tuple(token_ids[1:])

    @property
    def rows(self) -> int:
        """The tokens that the windows give if all of them are right."""
        return sum(len(window.token_ids) for window in self._windows)

    def add(self, window: SentWindow) -> None:
        """Note a window that follows those under way."""
        self._windows.append(window)

    def land(self, token_ids: Sequence[int]) -> Landing:
        """Take what the oldest window gave; forget those behind it where they do not count.

        A round ends where they do not, or where the window gave fewer tokens than it has rows.
        """
        window = self._windows.popleft()
        is_whole = len(token_ids) == len(window.token_ids)
        following = self.oldest
        goes_on = is_whole and following is not None and following.token_ids[0] == token_ids[-1]
        dropped = 0 if goes_on else len(self._windows)
        if not is_whole or dropped:
            self.round += 1
        if dropped:
            self._windows.clear()
        return Landing(
            window,
            window.start + len(token_ids),
            is_guessed=is_whole and window.guess == token_ids[-1],
            goes_on=goes_on,
            dropped=dropped,
        )
