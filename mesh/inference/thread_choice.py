"""With how many threads decode steps are computed: the fastest number, tried now and then.

A second thread shortens a step where its core is free. Where another process uses that core, the
step takes several times as long: each of its many small kernels ends when its last thread does.
Which it is changes while a node serves, and only the clock tells.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

COMPARED_PAIRS = 4
"""A comparison measures so many steps with each of its two numbers of threads."""
MIN_GAIN = 0.03
"""The other number is taken if its steps are shorter by this part, by the median of the pairs."""
CLEAR_RATIO = 1.5
"""Steps that differ by this factor end a comparison early: one pair rejects the other number of
threads, two pairs accept it.
"""
MIN_SECONDS = 1e-9
SLOW_STEPS = 2
"""A comparison starts early after this many slow steps in a row: another program uses the cores."""
MIN_USUAL, MAX_USUAL = 4, 8
"""The median of the last 4 to 8 steps of equal rows is what such a step usually takes."""
FIRST_PAUSE, MAX_PAUSE = 64, 2048
"""Steps between two comparisons. The pause doubles after each one that changes nothing."""


def list_candidates(most: int) -> tuple[int, ...]:
    """Return the numbers of threads up to ``most`` that are tried: the powers of two, ``most``, and
    one less, which leaves a core to the event loop and p2pd.
    """
    powers = {1 << i for i in range(most.bit_length())}
    return tuple(sorted(powers | {most, max(1, most - 1)}))


class Comparison:
    """Steps in turns: with the number in use, and with a neighbour of it, the ``rival``."""

    def __init__(self, rival: int) -> None:
        self.rival = rival
        self.mine_s: dict[int, list[float]] = defaultdict(list)
        """The seconds of steps with the number in use, by their rows."""
        self._rivals: Counter[int] = Counter()
        self._ratios: list[float] = []

    def is_rivals_turn(self, rows: int) -> bool:
        return len(self.mine_s[rows]) > self._rivals[rows]

    def add(self, rows: int, elapsed_s: float) -> None:
        mine_s = self.mine_s[rows]
        if not self.is_rivals_turn(rows):
            mine_s.append(elapsed_s)
            return
        self._rivals[rows] += 1
        self._ratios.append(elapsed_s / max(mine_s[-1], MIN_SECONDS))

    @property
    def has_won(self) -> bool | None:
        """Whether the rival is faster; None while that is not clear."""
        ratios = self._ratios
        if ratios and min(ratios) > CLEAR_RATIO:
            return False
        if len(ratios) > 1 and max(ratios) < 1 / CLEAR_RATIO:
            return True
        return None if len(ratios) < COMPARED_PAIRS else statistics.median(ratios) < 1 - MIN_GAIN


class ThreadChoice:
    """Says how many threads compute the next decode step, and is told how long that took.

    It begins with ``most``. Only steps of equal numbers of rows are compared.
    """

    def __init__(self, most: int) -> None:
        self._candidates = list_candidates(most)
        self._place = len(self._candidates) - 1
        self._direction = -1
        self._comparison: Comparison | None = None
        self._steps_left = 0
        self._pause = FIRST_PAUSE
        self._usual_s: dict[int, list[float]] = {}
        self._slow = 0

    @property
    def threads(self) -> int:
        """The number that is in use, between comparisons."""
        return self._candidates[self._place]

    def choose(self, rows: int) -> int:
        """Return the number of threads for a step of so many rows; :meth:`note` may follow."""
        if self._comparison is None and self._steps_left <= 0 and len(self._candidates) > 1:
            self._comparison = Comparison(self._find_rival())
        if self._comparison is not None and self._comparison.is_rivals_turn(rows):
            return self._candidates[self._comparison.rival]
        return self.threads

    def note(self, rows: int, elapsed_s: float) -> None:
        """Take the seconds of the step that was chosen for last."""
        if self._comparison is None:
            self._watch(rows, elapsed_s)
            return
        self._comparison.add(rows, elapsed_s)
        has_won = self._comparison.has_won
        if has_won is not None:
            self._conclude(self._comparison, has_won=has_won)

    def _watch(self, rows: int, elapsed_s: float) -> None:
        """Keep what steps usually take; slow ones begin a comparison, with fewer threads first."""
        self._steps_left -= 1
        usual_s = self._usual_s.setdefault(rows, [])
        if len(usual_s) >= MIN_USUAL and elapsed_s > CLEAR_RATIO * statistics.median(usual_s):
            self._slow += 1
            if self._slow == SLOW_STEPS:
                self._steps_left, self._pause, self._direction = 0, FIRST_PAUSE, -1
            return
        self._slow = 0
        self._usual_s[rows] = [*usual_s[1 - MAX_USUAL :], elapsed_s]

    def _find_rival(self) -> int:
        if not 0 <= self._place + self._direction < len(self._candidates):
            self._direction = -self._direction
        return self._place + self._direction

    def _conclude(self, comparison: Comparison, *, has_won: bool) -> None:
        self._comparison, self._slow = None, 0
        if has_won:
            self._place, self._usual_s, self._pause = comparison.rival, {}, FIRST_PAUSE
        else:
            self._usual_s = dict(comparison.mine_s)
            self._direction = -self._direction
        self._steps_left = self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE)
