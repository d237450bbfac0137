"""What a model thinks before it answers, told apart from the answer.

Models with thinking tags write <think>…</think> first, or their template has opened the tag
already. Such text is told as ``reasoning_content``, as vLLM, SGLang and DeepSeek's API have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto

from mesh.client.stops import count_overlap

OPEN, CLOSE = "<think>", "</think>"
TAIL_TOKENS = 8
"""So many tokens at a prompt's end show whether the template opened the tag."""

Part = tuple[bool, str]
"""Whether it is reasoning, and the text."""


def has_thinking_tags(template: str | None) -> bool:
    """Whether a model's chat template knows of thinking."""
    return template is not None and CLOSE in template


def is_left_open(text: str) -> bool:
    """Whether a text ends within a thought."""
    return text.rfind(OPEN) > text.rfind(CLOSE)


class _State(Enum):
    BEGINNING = auto()
    """Nothing but blanks has come: a tag may follow."""
    OPENED = auto()
    """The tag has come; blanks behind it belong to nothing."""
    THINKING = auto()
    CLOSED = auto()
    ANSWERING = auto()


class ReasoningSplitter:
    """Takes an answer's text piece by piece. ``is_open``: the prompt ends within a thought."""

    def __init__(self, *, is_open: bool) -> None:
        self._state = _State.OPENED if is_open else _State.BEGINNING
        self._held = ""

    def feed(self, text: str) -> list[Part]:
        """Return the parts that are known now, none of them empty."""
        self._held += text
        return [*self._advance()]

    def flush(self) -> list[Part]:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        if self._state is _State.BEGINNING:
            return [(False, held)] if held else []
        is_thought = self._state is _State.THINKING and bool(held.strip())
        return [(True, held.rstrip())] if is_thought else []

    def _advance(self) -> Iterator[Part]:
        while self._held:
            state, size = self._state, len(self._held)
            yield from self._step()
            if (self._state, len(self._held)) == (state, size):
                return

    def _step(self) -> Sequence[Part]:
        match self._state:
            case _State.BEGINNING:
                return self._begin()
            case _State.OPENED:
                self._skip_blanks(_State.THINKING)
                return ()
            case _State.THINKING:
                return self._think()
            case _State.CLOSED:
                self._skip_blanks(_State.ANSWERING)
                return ()
            case _State.ANSWERING:
                held, self._held = self._held, ""
                return ((False, held),)

    def _begin(self) -> Sequence[Part]:
        text = self._held.lstrip()
        if text.startswith(OPEN):
            self._held, self._state = text[len(OPEN) :], _State.OPENED
        elif not OPEN.startswith(text):
            self._state = _State.ANSWERING
        return ()

    def _skip_blanks(self, following: _State) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = following

    def _think(self) -> Sequence[Part]:
        place = self._held.find(CLOSE)
        if place >= 0:
            thought, self._held = self._held[:place].rstrip(), self._held[place + len(CLOSE) :]
            self._state = _State.CLOSED
        else:
            # The tag may have begun, and blanks before it are no part of the thought.
            known = self._held[: len(self._held) - count_overlap(self._held, CLOSE)]
            thought = known.rstrip()
            self._held = self._held[len(thought) :]
        return ((True, thought),) if thought else ()
