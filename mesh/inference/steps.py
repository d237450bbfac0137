"""What the engine computes: sessions, their steps, and what a step gives.

mesh/inference/engine.py explains who uses them when.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from mesh.inference.accounts import Account
from mesh.inference.pages import Rank
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.tokens import Token
from mesh.inference.wire import DTYPE_SIZES, HiddenRows, StepFrame
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import LayerSpan, ModelConfig

T = TypeVar("T")


@dataclass(slots=True)
class EngineSession:
    """One request's place in this engine: its layers, its pages of the cache, its length.

    ``length`` tokens of its text are computed. ``kept`` of them have keys and values in ``pages``:
    all, unless the pages went to another session. ``token_ids`` is the text where it is known.
    """

    serial: int
    span: LayerSpan
    capacity: int
    account: Account
    table: Sequence[int]
    """The book's table, for the event loop."""
    pages: tuple[int, ...] = ()
    """The table as it was when the session's step was handed to the compute thread."""
    length: int = 0
    kept: int = 0
    token_ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """The lengths after each step: where the text was cut."""
    salt: bytes | None = None
    """Under which the session's pages are published; None: they are not."""
    keys: tuple[bytes, ...] = ()
    """The keys of the pages that may be published."""
    published: int = 0
    reused: int = 0
    """The tokens that the session began with."""
    verified: int | None = None
    """The text from there on is a draft that may turn out wrong; None: nothing is."""
    loss: Refused | None = None
    """Why the session cannot go on: its pages are gone and its text is not known."""
    is_open: bool = True
    stays: bool = False
    """Whether its pages are to be kept for a while when its block is left: it is parked then."""

    @property
    def rank(self) -> Rank:
        return Rank(self.account.is_member, self.account.priority, -self.serial)

    @property
    def is_known(self) -> bool:
        """Whether the text can be computed again."""
        return len(self.token_ids) == self.length

    def count(self, step: StepInput) -> None:
        """Add the rows of a computed step to the text."""
        before, self.length = self.length, self.length + step.rows
        self.kept = self.length
        self.token_ids.extend(step.token_ids or ())
        # A window's rows are decode rows, each of them a step if they are computed again.
        self.ends.extend(range(before + 1, self.length) if step.is_decode else ())
        self.ends.append(self.length)

    def rewind(self, length: int) -> None:
        """Forget what follows ``length`` tokens: its slots are written before they are read."""
        if length == self.length:
            return
        self.length, self.kept = length, min(self.kept, length)
        del self.token_ids[length:]
        del self.ends[bisect_right(self.ends, length) :]
        self.ends.append(length)

    def has_room(self, rows: int) -> bool:
        """Whether the pages hold the next ``rows``."""
        return self.kept + rows <= len(self.pages) * PAGE_TOKENS


Follow = Callable[["StepOutput"], "StepInput | None"]
"""Called on the compute thread with a step's output: the session's next step, or None."""


@dataclass(frozen=True, slots=True)
class StepInput:
    """A session's next rows: token ids at the first range, hidden states after it.

    ``sample`` asks the last range for a token after the last row; ``score_ids`` asks it for the log
    probability of each row's next token in the text, with ``score_top`` alternatives;
    ``logit_rows`` asks it for the logits of that many last rows, or with ``wants_hidden`` for their
    hidden states after the final norm. A step that ``follow`` names is
    computed without asking the event loop; it takes notes, since only the last output is returned.
    ``window`` says that the rows are a token and a draft of what follows it, and are computed as
    decode rows; it asks the last range for a token after each of its first rows.
    ``is_ahead`` says that the step before it is not verified yet: it sets no rhythm for others.
    With ``goes_on`` that step will be the row of the chosen token, sampled alike without a penalty,
    unless the session ends; it may then be computed before ``follow`` is asked.
    """

    rows: int
    token_ids: Sequence[int] | None = None
    hidden: HiddenRows | None = None
    sample: SampleRequest | None = None
    score_ids: Sequence[int] = ()
    score_top: int = 0
    logit_rows: int = 0
    wants_hidden: bool = False
    follow: Follow | None = None
    goes_on: bool = False
    window: Sequence[SampleRequest] | None = None
    is_ahead: bool = False

    @property
    def is_decode(self) -> bool:
        """Whether the rows are decode rows: one, or those of a window."""
        return self.rows == 1 or self.window is not None

    @property
    def wanted_tokens(self) -> tuple[int, Sequence[SampleRequest]]:
        """The first row after which a token is wanted, and how to choose it and those after it."""
        if self.sample is not None:
            return self.rows - 1, (self.sample,)
        return 0, self.window or ()

    def split_window(self) -> tuple[StepInput, ...]:
        """Return a step for each row of a window, which together ask for what the window does."""
        samples = self.window or ()
        hidden = [None] * self.rows if self.hidden is None else self.hidden.split()
        return tuple(
            StepInput(
                1,
                token_ids=None if self.token_ids is None else self.token_ids[row : row + 1],
                hidden=hidden[row],
                window=samples[row : row + 1],
            )
            for row in range(self.rows)
        )


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Hidden states of the rows (not from the last layer), or the token that was asked for.

    ``window`` has a window's tokens. ``logits`` is float32 [logit_rows, vocabulary] on the CPU, or
    [logit_rows, hidden_size] if the step wanted hidden states. ``elapsed_us`` counts from the
    moment the step was handed over, since waiting is part of a hop, until the output is there.
    """

    hidden: HiddenRows | None
    sampled: Token | None
    scores: tuple[Token, ...]
    elapsed_us: int
    logits: Tensor | None = None
    window: tuple[Token, ...] = ()

    def make_frame(self, position: int, times_us: tuple[int, ...] = ()) -> StepFrame:
        """Return the hidden states for the next range."""
        if self.hidden is None:
            raise ValueError("the last layer's rows do not leave as hidden states")
        return StepFrame(position, self.hidden, times_us)


@dataclass(frozen=True, slots=True)
class Job:
    """What the compute thread runs, and who waits for it.

    A job that computes lost text again names the job that it ``restores`` the session for.
    """

    session: EngineSession
    step: StepInput
    future: asyncio.Future[StepOutput]
    handed_over: float
    restores: Job | None = None


def make_warm_up_step(layers: LayerSpan, config: ModelConfig) -> StepInput:
    """Return a row that any engine of these layers computes."""
    if layers.start == 0:
        return StepInput(1, token_ids=(0,))
    zeros = bytes(config.hidden_size * DTYPE_SIZES["float32"])
    return StepInput(1, hidden=HiddenRows(1, "float32", zeros))


def plan_job(job: Job, *, chunk: int, deterministic: bool) -> Job:
    """Return the job, or a step that computes lost text of its session again before it.

    A deterministic engine cuts the text where it was cut before, for the sake of equal bits; others
    into chunks of ``chunk`` tokens.
    """
    wanted = job.restores or job
    session = wanted.session
    missing = session.length - session.kept
    if not missing:
        return wanted
    rows = min(missing, chunk)
    if deterministic:
        rows = session.ends[bisect_right(session.ends, session.kept)] - session.kept
    token_ids = session.token_ids[session.kept : session.kept + rows]
    return replace(wanted, step=StepInput(rows, token_ids=token_ids), restores=wanted)


def check_room(session: EngineSession, step: StepInput) -> None:
    """Raise Refused(CONTEXT_OVERFLOW) when a step's rows exceed what the session may have."""
    if session.length + step.rows > session.capacity:
        raise Refused(RefusalReason.CONTEXT_OVERFLOW, "more tokens than the session may have")


def resolve(future: asyncio.Future[T], value: T) -> None:
    """Answer, unless the one who asked has gone."""
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[StepOutput], refused: Refused) -> None:
    """Refuse, unless the one who asked has gone."""
    if not future.done():
        future.set_exception(refused)
