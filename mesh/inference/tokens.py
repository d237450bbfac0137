"""One token, and the account of how an answer came about, from the engine to the reader.

The engine makes a :class:`Token`; the last range, the client and the gateway each pass it on
with what they add (``dataclasses.replace``). No torch and no cryptography here: clients over HTTP
use the same types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from keys.peer import PeerId
    from mesh.inference.refusals import RefusalReason

MAX_TRACED_STEPS = 4096
MAX_DROPPED = 4
"""Windows that one step drops; a peer says how many."""
NOT_TOLD = -1
"""The id of a token that is known by its text only, as over HTTP."""
MICROSECONDS_PER_MILLISECOND = 1000


class Finish(StrEnum):
    """Whether an answer ends with this token, and why."""

    NOT_YET = ""
    STOP = "stop"
    LENGTH = "length"


class Alternative(NamedTuple):
    """A token that could have come. ``raw`` are its own bytes, where a gateway adds them."""

    token_id: int
    logprob: float
    raw: bytes = b""

    @property
    def name(self) -> str:
        """The token as text; see :func:`name_token`."""
        return name_token(self.raw)


@dataclass(frozen=True, slots=True)
class TracedHop:
    """One part of a route, as a reader is told of it: a peer and a half-open range of layers.

    ``step_ms`` is the median time of one decode step there; None before it is measured.
    """

    peer_id: str
    start: int
    end: int
    step_ms: float | None = None


@dataclass(slots=True, eq=False)
class Trace:
    """How an answer came about; grows while it streams. Times are monotonic seconds.

    ``hop_times_us`` holds, for each of the first steps, the time in each range and then the whole
    step as the first range saw it. ``step_tokens`` holds how many tokens each of these steps gave:
    several where a draft was accepted. ``dropped_windows`` counts drafts that were sent ahead in
    vain. ``refills`` counts the re-routes over which the hosters that were left kept their caches,
    ``replays`` those over which all of a new route computed a begun answer again.
    ``failures`` are the peers left out, with the reason.
    ``tokens_per_second`` counts the tokens after the first one; None before the second.
    ``receipts`` are those of the choices, as JSON objects, once a gateway has them.
    ``cached_tokens`` of the prompt no range computed again, by the first range's word, told before
    the first token; None where it was not asked or is of an earlier version.
    """

    route: tuple[TracedHop, ...] = ()
    reroutes: int = 0
    refills: int = 0
    replays: int = 0
    failures: list[tuple[PeerId | None, RefusalReason]] = field(default_factory=list)
    hop_times_us: list[tuple[int, ...]] = field(default_factory=list)
    step_tokens: list[int] = field(default_factory=list)
    dropped_windows: int = 0
    started_s: float = 0.0
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None
    tokens: int = 0
    receipts: tuple[Any, ...] = ()
    cached_tokens: int | None = None

    def note_cached(self, tokens: int) -> None:
        """Note how much of the prompt was kept."""
        self.cached_tokens = tokens

    def count(self, now_s: float, *, tokens: int = 1, times_us: tuple[int, ...] = ()) -> None:
        """Note tokens that arrived together; of one step only the first come with times."""
        self.tokens += tokens
        since_start_s = now_s - self.started_s
        if self.time_to_first_token_s is None:
            self.time_to_first_token_s = since_start_s
        elif since_start_s > self.time_to_first_token_s:
            elapsed_s = since_start_s - self.time_to_first_token_s
            self.tokens_per_second = (self.tokens - 1) / elapsed_s
        told = len(self.route) + 1
        if self.route and len(times_us) > told:
            self.dropped_windows += min(times_us[told], MAX_DROPPED)
            times_us = times_us[:told]
        if len(self.hop_times_us) >= MAX_TRACED_STEPS:
            return
        if times_us:
            self.hop_times_us.append(times_us)
            self.step_tokens.append(tokens)
        elif self.step_tokens:
            self.step_tokens[-1] += tokens

    @property
    def tokens_per_step(self) -> float | None:
        """The mean number of tokens that a pass over the route gave; None where it is not told."""
        return sum(self.step_tokens) / len(self.step_tokens) if self.step_tokens else None

    def measure_route(self) -> tuple[TracedHop, ...]:
        """Return the route with each hop's median time of a step."""
        hops = len(self.route)
        # The last entry of a step is the whole of it; steps of an earlier route differ in length.
        steps = [step[:hops] for step in self.hop_times_us if len(step) == hops + 1]
        if not steps:
            return self.route
        return tuple(
            replace(hop, step_ms=median(column) / MICROSECONDS_PER_MILLISECOND)
            for hop, column in zip(self.route, zip(*steps, strict=True), strict=True)
        )


_UNTRACED = Trace()


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer or of a scored prompt.

    ==================  ============================================================================
    added by the engine  ``token_id``, its natural ``logprob`` and ``top_logprobs``, the likeliest
                         tokens in its place, the best first
    by the last range    ``index`` within the answer, ``finish``, and ``times_us``: a number for
                         each range in the route's order; the first range adds the whole step's,
                         and how many windows it dropped (mesh/inference/rounds.py) if it did
    by the client        ``text``, what the token adds to the text so far; it may be empty while a
                         character or a stop is incomplete. ``trace``, one for the whole answer
    by the gateway       ``raw``, the token's own bytes, a special token's name among them
    ==================  ============================================================================

    ``logprob`` is None where none was computed, and for a prompt's first token. The token with
    which the model ends its text has ``finish`` STOP and no text.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[Alternative, ...] = ()
    index: int = 0
    finish: Finish = Finish.NOT_YET
    times_us: tuple[int, ...] = ()
    text: str = ""
    raw: bytes = b""
    trace: Trace = field(default=_UNTRACED, repr=False, compare=False)

    def with_times(self, times_us: tuple[int, ...]) -> Token:
        """Return the token with other times; faster than ``replace``, since each step waits."""
        return Token(
            self.token_id, self.logprob, self.top_logprobs, self.index, self.finish, times_us
        )

    @property
    def finish_reason(self) -> str | None:
        """``stop`` or ``length`` on an answer's last token, else None."""
        return self.finish.value or None

    @property
    def name(self) -> str:
        """The token as text; see :func:`name_token`."""
        return name_token(self.raw)


def join_texts(tokens: Sequence[Token]) -> str:
    """Return the text of consecutive tokens."""
    return "".join([token.text for token in tokens])


def name_token(raw: bytes) -> str:
    """Return a token's bytes as text, and part of a character as ``bytes:\\xe2\\x82``.

    The same bytes have one name in every position, which evaluation harnesses compare.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
