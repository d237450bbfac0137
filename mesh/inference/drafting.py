"""Draft tokens of a speculating answer: what may come next, looked up in the text so far.

Prompt lookup (also called n-gram speculation): the last tokens of the text are looked for earlier
in the text, and what followed them there is the draft. That pays for answers that quote: summaries,
code that is edited, questions about a given text. The last range verifies drafts
(mesh/inference/windows.py), so a wrong one costs time and changes no token.

No tensors and no clock are here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

NGRAM_SIZES = (6, 4, 3, 2)
"""Tokens at the end of the text that are looked for, the most telling first."""
MAX_LOOKBACK = 1 << 15
"""Tokens before the end of the text in which they are looked for."""
MAX_MISALIGNED = 64
"""Hits between the bytes of two tokens after which a search gives up."""
FIRST_LENGTH = 4
MAX_MISSES = 3
"""Drafts in a row without an accepted token after which drafting pauses."""
COMPARED = 3
"""Steps with drafts after which it is judged whether they are faster."""
FIRST_PAUSE = 8
MAX_PAUSE = 128
"""Steps without drafts, the first time and at most. A pause is twice as long as the one before."""
MIN_LIKELIHOOD = 0.6
"""How likely it is at least that a window sent ahead is not dropped."""
RIGHTNESS_MEMORY = 0.4
"""The part that the newest window has in how often windows are right as a whole: two in a row let
one be sent ahead, and one that fails ends that."""
MEMORY = 0.25
"""The part of a mean that the newest measurement is."""
_TOKEN = array("I").itemsize


class PromptLookup:
    """A text that grows, and what followed its end earlier in it."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._text = bytearray(array("I", token_ids).tobytes())

    def extend(self, token_ids: Sequence[int]) -> None:
        """Add tokens to the text."""
        self._text += array("I", token_ids).tobytes()

    def propose(self, most: int, *, ahead: Sequence[int] = ()) -> tuple[int, ...]:
        """Return ``most`` tokens that may come next, or after ``ahead``; none where the end is new.

        Of several places the last one counts. A draft that reaches the end of the text goes on with
        itself, so a repeated phrase is drafted again and again.
        """
        if most <= 0:
            return ()
        length = len(self._text)
        self.extend(ahead)
        try:
            for size in NGRAM_SIZES:
                place = self._find_end(size)
                if place is not None:
                    return self._copy(place + size, most)
            return ()
        finally:
            del self._text[length:]

    def _find_end(self, size: int) -> int | None:
        """Return where the last ``size`` tokens stand earlier; None if they do not."""
        text = self._text
        suffix = text[-size * _TOKEN :]
        if len(suffix) < size * _TOKEN:
            return None
        low = max(0, len(text) - MAX_LOOKBACK * _TOKEN)
        high = len(text) - _TOKEN
        for _ in range(MAX_MISALIGNED):
            found = text.rfind(suffix, low, high)
            if found < 0:
                return None
            if found % _TOKEN == 0:
                return found // _TOKEN
            high = found + len(suffix) - 1
        return None

    def _copy(self, start: int, count: int) -> tuple[int, ...]:
        known = array("I")
        known.frombytes(bytes(self._text[start * _TOKEN : (start + count) * _TOKEN]))
        while len(known) < count:
            known.extend(known[: count - len(known)])
        return tuple(known)


class DraftLength:
    """How many tokens to draft: more while they are accepted, none where that does not pay.

    It pauses after ``MAX_MISSES`` drafts without an accepted token, or when steps with drafts have
    given fewer tokens a second than steps without. After a pause it tries again.
    """

    def __init__(self, most: int, *, compares_first: bool = False) -> None:
        """With ``compares_first`` no draft is made before a step without one was measured."""
        self._most = most
        self._compares_first = compares_first
        self._length = min(FIRST_LENGTH, most)
        self._misses = 0
        self._left = 0
        self._pause = FIRST_PAUSE
        self._plain_s: float | None = None
        self._gain: float | None = None
        self._compared = 0

    def get(self) -> int:
        """Return the most tokens that the next draft may have; 0 during a pause."""
        is_early = self._compares_first and self._plain_s is None
        return 0 if self._left or is_early else self._length

    def note_plain(self, elapsed_s: float) -> None:
        """Note a step without a draft."""
        self._left = max(0, self._left - 1)
        self._plain_s = _mix(self._plain_s, elapsed_s)

    def note_draft(self, drafted: int, accepted: int, elapsed_s: float) -> None:
        """Note a step that gave ``accepted`` of ``drafted`` tokens, and one more."""
        if self._plain_s is not None and elapsed_s > 0:
            self._gain = _mix(self._gain, (accepted + 1) * self._plain_s / elapsed_s)
            self._compared += 1
        self._misses = 0 if accepted else self._misses + 1
        if accepted == drafted:
            self._length = min(self._most, max(self._length, 2 * drafted))
        else:
            self._length = min(self._most, max(1, accepted + 1, self._length // 2))
        is_slower = self._compared >= COMPARED and self._gain is not None and self._gain < 1.0
        if self._misses >= MAX_MISSES or is_slower:
            self._begin_pause()
        elif accepted:
            self._pause = FIRST_PAUSE

    def _begin_pause(self) -> None:
        self._left, self._pause = self._pause, min(2 * self._pause, MAX_PAUSE)
        self._length, self._misses = min(FIRST_LENGTH, self._most), 0
        self._gain, self._compared = None, 0


class FlightLength:
    """How many windows to have under way: more while they are right as a whole, else one.

    A window that is sent ahead counts only if all before it are right, and so is the guess that it
    begins with. It is sent where that is likely, by what became of the windows so far.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rightness = 0.0

    def get(self) -> int:
        """Return how many windows may be under way now; 1 where sending ahead does not pay."""
        length, likelihood = 1, self._rightness
        while length < self._most and likelihood >= MIN_LIKELIHOOD:
            length, likelihood = length + 1, likelihood * self._rightness
        return length

    def note(self, *, is_right: bool) -> None:
        """Note a verified window: whether a window after it would have counted."""
        self._rightness += RIGHTNESS_MEMORY * (is_right - self._rightness)


class Drafter:
    """Drafts what follows a text, ``most`` tokens at a time."""

    def __init__(
        self,
        token_ids: Sequence[int],
        *,
        most: int,
        compares_first: bool = False,
        in_flight: int = 1,
    ) -> None:
        """At most ``in_flight`` windows are under way."""
        self._lookup = PromptLookup(token_ids)
        self._length = DraftLength(most, compares_first=compares_first)
        self._flight = FlightLength(in_flight)

    def draft(self, room: int) -> tuple[int, ...]:
        """Return a draft of at most ``room`` tokens; it may be empty."""
        return self._lookup.propose(min(room, self._length.get()))

    def draft_more(
        self, room: int, *, ahead: Sequence[int] = ()
    ) -> tuple[tuple[int, ...], int | None]:
        """Return a draft, and a guess of the token that comes after it.

        It follows the text and ``ahead``, which are drafts that are under way. None: no guess.
        """
        count = min(room, self._length.get())
        if count <= 0:
            return (), None
        tokens = self._lookup.propose(count + 1, ahead=ahead)
        return tokens[:count], tokens[count] if tokens else None

    @property
    def in_flight(self) -> int:
        """How many windows may be under way now."""
        return self._flight.get()

    def note_flight(self, *, is_right: bool) -> None:
        """Note whether a window that was sent after a verified one would have counted."""
        self._flight.note(is_right=is_right)

    def begin(self, token_id: int) -> None:
        """Add the first token, whose time is the prompt's."""
        self._lookup.extend((token_id,))

    def note(self, token_ids: Sequence[int], *, drafted: int, elapsed_s: float) -> None:
        """Note the tokens that a step gave, the accepted ones of its draft first."""
        self._lookup.extend(token_ids)
        if drafted:
            self._length.note_draft(drafted, len(token_ids) - 1, elapsed_s)
        else:
            self._length.note_plain(elapsed_s)


def _mix(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - MEMORY) * mean + MEMORY * value
