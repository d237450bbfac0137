"""What happened, line by line, and one hash over it: the same seed gives the same trace."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

MAX_KEPT_LINES = 200
"""The last lines, which a failure shows."""


class RunTrace:
    """Collects lines; ``show`` is called with each one."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show
        self._digest = hashlib.sha256()
        self._get_time: Callable[[], tuple[float, int]] = lambda: (0.0, 0)
        self.tail: deque[str] = deque(maxlen=MAX_KEPT_LINES)
        self.num_lines = 0

    def attach(self, get_time: Callable[[], tuple[float, int]]) -> None:
        """Stamp lines with virtual seconds and the chain's best block from now on."""
        self._get_time = get_time

    def add(self, who: str, what: str) -> None:
        now_s, block = self._get_time()
        line = f"{now_s:9.3f} #{block:<4} {who:<8} {what}"
        self._digest.update(line.encode() + b"\n")
        self.tail.append(line)
        self.num_lines += 1
        if self._show is not None:
            self._show(line)

    @property
    def is_watched(self) -> bool:
        return self._show is not None

    def note(self, who: str, what: str) -> None:
        """Show a line that follows from others: it is no part of the hash."""
        if self._show is not None:
            now_s, block = self._get_time()
            self._show(f"{now_s:9.3f} #{block:<4} {who:<8} {what}")

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()
