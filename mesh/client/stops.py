"""Stop sequences over streamed text: what may be shown, and when the answer is over.

Text that could still become a stop sequence is held back; the sequence itself is shown only where
that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import InvalidRequest

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 512


class StopMatcher:
    """Feed it every piece of text; show what it returns. Once ``is_stopped``, nothing follows.

    ``includes_stop`` shows the stop sequence that ended the text.
    """

    def __init__(self, stops: Sequence[str], *, includes_stop: bool = False) -> None:
        if len(stops) > MAX_STOPS or any(not 0 < len(s) <= MAX_STOP_CHARACTERS for s in stops):
            raise InvalidRequest(
                "stop", f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
            )
        self._stops = tuple(stops)
        self._includes_stop = includes_stop
        self._held = ""
        self.is_stopped = False
        self.found: str | None = None
        """Which stop sequence came."""

    def feed(self, text: str) -> str:
        """Return what may be shown now."""
        self._held += text
        found = [
            (place, len(stop), stop)
            for stop in self._stops
            if (place := self._held.find(stop)) >= 0
        ]
        if found:
            self.is_stopped = True
            start, size, self.found = min(found)
            end = start + size if self._includes_stop else start
            shown, self._held = self._held[:end], ""
            return shown
        keep = max((count_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """Return what was held back: the answer has ended otherwise."""
        shown, self._held = self._held, ""
        return shown


def count_overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
