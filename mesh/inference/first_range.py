"""A session at the first of several ranges: it feeds the next one and forwards the answers.

mesh/inference/pipeline.py describes the whole session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import MeshError, StreamClosed
from mesh.inference.drafting import Drafter
from mesh.inference.hops import Departure, NextHop, TurnLoop, run_guarded
from mesh.inference.measures import TokenClock
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import StepInput
from mesh.inference.tokens import Finish, Token
from mesh.inference.window_wire import decode_tokens
from mesh.inference.wire import (
    BLAMES_NO_HOP,
    FrameType,
    HiddenRows,
    ScoresFrame,
    StepFrame,
    decode_scores,
    decode_token,
    encode_scores,
    encode_token,
)

if TYPE_CHECKING:
    from mesh.inference.pipeline import GenerationRange

T = TypeVar("T")
MAX_SCORES_AHEAD = 4
"""Frames of scores that may wait at the first range for the client."""
NO_TOKEN = "no token in time"
TOKENS_TYPE = bytes((FrameType.TOKENS,))
NO_ROWS = HiddenRows(0, "float32", b"")


class AnswerAtFirst:
    """Generates an answer: computes each token that comes back in the turn in which it arrives."""

    def __init__(self, role: GenerationRange) -> None:
        self._role = role
        self._index = role.request.first_index
        self._next_hop: NextHop | None = None
        self._departure: Departure | None = None
        self._prompt_has_left = False
        self._is_stopped = False
        self._drafter: Drafter | None = None
        self._draft: tuple[int, ...] = ()
        self._clock = TokenClock(role.engine.measures)
        self._turns = TurnLoop(self._on_arrival, late=NO_TOKEN)

    async def run(self, next_hop: NextHop) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        role = self._role
        self._next_hop = next_hop
        self._turns.allow(_allow_first_s(role))
        await run_guarded(
            self._turns.run(next_hop, blame=BLAMES_NO_HOP),
            role.watch_client(self._stop),
            self._feed_prompt(next_hop),
            next_hop.watch_silence(),
        )

    def _stop(self) -> None:
        """Submit no further step: the answer ends with the token that is on its way."""
        self._is_stopped = True

    async def put(self, frame: bytes) -> None:
        """Take a token of the last range. A wrong token ends the session."""
        self._take(frame)

    async def _feed_prompt(self, next_hop: NextHop) -> None:
        role = self._role
        async for position, output in role.compute_prompt(None):
            self._prompt_has_left = role.session.length == len(role.request.token_ids)
            await next_hop.send(role.encode_output(position, output, ()))

    def _on_arrival(self) -> None:
        """Read what came back from the second range: tokens, if it is the last, or an error."""
        if self._next_hop is None:
            return
        try:
            while not self._turns.is_over:
                frame = self._next_hop.receive_now()
                if frame is None:
                    return
                _check_is_last(self._role)
                self._take(frame)
        except StreamClosed:
            self._turns.fail(Refused(RefusalReason.HOP_LOST, "it left", hop_index=1))
        except MeshError as error:
            self._turns.fail(error)

    def _take(self, frame: bytes) -> None:
        if self._turns.is_over:
            return
        try:
            if frame[:1] == TOKENS_TYPE and self._next_hop is not None and self._next_hop.window:
                tokens = _decode_from_last(self._role, frame, decode_tokens)
                self._check(tokens)
                self._note_draft(tokens, self._next_hop.window)
            elif self._draft:
                raise _blame_last(self._role, "it did not verify a draft")
            else:
                tokens = (_decode_from_last(self._role, frame, decode_token),)
                self._check(tokens)
            self._accept(tokens)
        except MeshError as error:
            self._turns.fail(error)

    def _check(self, tokens: Sequence[Token]) -> None:
        """Raise Refused that blames the last range unless these are what a step may give."""
        token_ids = [token.token_id for token in tokens]
        is_next = [token.index for token in tokens] == [self._index + i for i in range(len(tokens))]
        if not is_next or not self._may_come():
            raise _blame_last(self._role, "not the next token")
        if max(token_ids) >= self._role.engine.config.vocab_size:
            raise _blame_last(self._role, "an impossible token")
        if tuple(token_ids[:-1]) != self._draft[: len(tokens) - 1]:
            raise _blame_last(self._role, "tokens that were not drafted")
        if any(token.finish is not Finish.NOT_YET for token in tokens[:-1]):
            raise _blame_last(self._role, "tokens after the end")

    def _note_draft(self, tokens: Sequence[Token], window: int) -> None:
        """Forget the rows of a draft that turned out wrong; learn from the tokens."""
        token_ids = [token.token_id for token in tokens]
        if self._drafter is None:
            # The last range verifies drafts: it says so by the kind of its frames.
            self._drafter = Drafter(self._role.request.token_ids, most=window - 1)
            self._drafter.begin(token_ids[0])
            return
        drafted, session = len(self._draft), self._role.session
        if drafted:
            session.rewind(session.length - drafted - 1 + len(tokens))
            self._role.engine.measures.note_draft(drafted, len(tokens) - 1)
        self._drafter.note(token_ids, drafted=drafted, elapsed_s=self._clock.read())

    def _accept(self, tokens: Sequence[Token]) -> None:
        """Submit the step after some tokens, then send them to the client."""
        self._index += len(tokens)
        last = tokens[-1]
        for token in tokens:
            self._role.note_token(token.token_id)
        is_over = last.finish is not Finish.NOT_YET or self._is_stopped
        if not is_over:
            self._compute(last.token_id)
        self._turns.allow(self._role.timeouts.step_s)
        for place, token in enumerate(tokens):
            elapsed_us = int(self._clock.note_token() * 1e6)
            # Nothing waits here for the client: an answer's tokens are few bytes.
            told = token.with_times(() if place else (*token.times_us, elapsed_us))
            self._role.upstream.send_now(encode_token(told))
        if is_over:
            self._turns.finish()

    def _may_come(self) -> bool:
        """Whether the step that gives the next token has left."""
        return self._prompt_has_left if self._departure is None else self._departure.has_left

    def _compute(self, token_id: int) -> None:
        role = self._role
        if self._next_hop is None:
            raise _blame_last(role, "a token before the prompt")
        self._draft = draft = self._make_draft()
        frame = StepFrame(role.session.length, NO_ROWS, draft=draft)
        departure = role.depart_to(self._next_hop, frame)
        self._departure = departure
        step = StepInput(
            1 + len(draft),
            token_ids=(token_id, *draft),
            follow=departure.follow,
            window=() if draft else None,
        )
        pending = role.engine.submit(role.session, step)
        pending.add_done_callback(lambda done: self._turns.check_step(done, departure))

    def _make_draft(self) -> tuple[int, ...]:
        if self._drafter is None:
            return ()
        request = self._role.request
        left = request.max_new_tokens - (self._index - request.first_index)
        return self._drafter.draft(min(left - 1, self._role.engine.draft_room))


class ScoresAtFirst:
    """Scores a prompt: sends it to the next range and forwards the scores that come back."""

    def __init__(self, role: GenerationRange) -> None:
        self._role = role
        self._back: asyncio.Queue[ScoresFrame] = asyncio.Queue(MAX_SCORES_AHEAD)

    async def run(self, next_hop: NextHop) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        # Feeding waits for no score, or both sides could wait for each other.
        await run_guarded(
            self._pass_on(),
            self._role.watch_client(),
            self._collect(next_hop),
            self._feed_prompt(next_hop),
            next_hop.watch_silence(),
        )

    async def put(self, frame: bytes) -> None:
        """Take scores of the last range. Raises Refused."""
        await self._back.put(_decode_from_last(self._role, frame, decode_scores))

    async def _feed_prompt(self, next_hop: NextHop) -> None:
        async for position, output in self._role.compute_prompt(None):
            await next_hop.send(self._role.encode_output(position, output, ()))

    async def _collect(self, next_hop: NextHop) -> None:
        while (frame := await next_hop.receive()) is not None:
            _check_is_last(self._role)
            await self.put(frame)

    async def _pass_on(self) -> None:
        position = 1
        while position < len(self._role.request.token_ids):
            scores = await self._next_scores(is_first=position == 1)
            if scores.position != position:
                raise _blame_last(self._role, "impossible scores")
            position += len(scores.scores)
            await self._role.upstream.send(encode_scores(scores))

    async def _next_scores(self, *, is_first: bool) -> ScoresFrame:
        seconds = _allow_first_s(self._role) if is_first else self._role.timeouts.step_s
        try:
            async with asyncio.timeout(seconds):
                return await self._back.get()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, NO_TOKEN, hop_index=BLAMES_NO_HOP) from error


def _allow_first_s(role: GenerationRange) -> float:
    """Return how long the prompt may take through all ranges."""
    timeouts = role.timeouts
    return timeouts.step_s + timeouts.prompt_token_s * len(role.request.token_ids)


def _check_is_last(role: GenerationRange) -> None:
    """Raise Refused for an answer of the second range where it is not the last."""
    if len(role.request.route) > 2:
        raise Refused(RefusalReason.MALFORMED, "only the last range answers", hop_index=1)


def _decode_from_last(role: GenerationRange, frame: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(frame)
    except Refused as refused:
        raise _blame_last(role, str(refused)) from refused


def _blame_last(role: GenerationRange, detail: str) -> Refused:
    return Refused(RefusalReason.HOP_LOST, detail, hop_index=len(role.request.route) - 1)
