"""Stop sequences over a stream of tokens: which tokens may be shown, whole or shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mesh.client.stops import StopMatcher
from mesh.inference.tokens import Token


class TokenStops:
    """Holds tokens back until their whole text may be shown, so that they keep their scores."""

    def __init__(self, sequences: Sequence[str], *, includes_stop: bool = False) -> None:
        self._matcher = StopMatcher(sequences, includes_stop=includes_stop)
        self._held: list[Token] = []
        self._shown = 0
        """Characters of the held tokens that may be shown."""

    @property
    def is_stopped(self) -> bool:
        """Whether the answer is over."""
        return self._matcher.is_stopped

    @property
    def found(self) -> str | None:
        """Which stop sequence ended the answer."""
        return self._matcher.found

    def feed(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens that are now safe to show."""
        released: list[Token] = []
        for token in tokens:
            if self.is_stopped:
                break
            self._held.append(token)
            self._shown += len(self._matcher.feed(token.text))
            while self._held and len(self._held[0].text) <= self._shown:
                self._shown -= len(self._held[0].text)
                released.append(self._held.pop(0))
        if self.is_stopped and self._shown:
            cut = self._held[0]
            released.append(replace(cut, text=cut.text[: self._shown]))
            self._shown = 0
        return tuple(released)

    def flush(self) -> tuple[Token, ...]:
        """Return what was held back, because the text has ended."""
        held, self._held = tuple(self._held), []
        return held
