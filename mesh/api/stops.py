"""Stop sequences over a stream of tokens: what may be shown, and when it is over.

Text that could still become a stop sequence is held back; the sequence itself is never shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mesh.api.backend import Token


@dataclass(slots=True)
class StopMatcher:
    """Feed it every token; show what it returns. Once ``is_stopped``, nothing more follows."""

    sequences: tuple[str, ...]
    is_stopped: bool = False
    _held: list[Token] = field(default_factory=list)

    def feed(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens that are now safe to show."""
        released: list[Token] = []
        for token in tokens:
            if self.is_stopped:
                break
            self._held.append(token)
            released += self._release()
        return tuple(released)

    def flush(self) -> tuple[Token, ...]:
        """Return what was held back, because the text has ended."""
        held, self._held = tuple(self._held), []
        return held

    def _release(self) -> list[Token]:
        text = "".join(token.text for token in self._held)
        found = [start for stop in self.sequences if (start := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return _cut(self._held, min(found))
        keep = max((_overlap(text, stop) for stop in self.sequences), default=0)
        return self._take(len(text) - keep)

    def _take(self, length: int) -> list[Token]:
        """Remove and return the leading tokens that lie wholly within ``length`` characters."""
        taken, position = 0, 0
        for token in self._held:
            position += len(token.text)
            if position > length:
                break
            taken += 1
        released, self._held = self._held[:taken], self._held[taken:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _cut(tokens: Sequence[Token], length: int) -> list[Token]:
    """Return the tokens that make up the first ``length`` characters, the last one shortened."""
    kept: list[Token] = []
    for token in tokens:
        if length <= 0:
            break
        kept.append(replace(token, text=token.text[:length]))
        length -= len(token.text)
    return kept
