"""A session at the first of several ranges: it feeds the next one and forwards the answers.

mesh/inference/pipeline.py describes the whole session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import MeshError, StreamClosed
from mesh.inference.hops import Departure, NextHop, TurnLoop, run_guarded
from mesh.inference.measures import TokenClock
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import StepInput
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import (
    BLAMES_NO_HOP,
    ScoresFrame,
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


class AnswerAtFirst:
    """Generates an answer: computes each token that comes back in the turn in which it arrives."""

    def __init__(self, role: GenerationRange) -> None:
        self._role = role
        self._index = role.request.first_index
        self._next_hop: NextHop | None = None
        self._departure: Departure | None = None
        self._prompt_has_left = False
        self._is_stopped = False
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
            self._accept(_decode_from_last(self._role, frame, decode_token))
        except MeshError as error:
            self._turns.fail(error)

    def _accept(self, token: Token) -> None:
        """Submit the step after a token, then send the token to the client."""
        if token.index != self._index or not self._may_come():
            raise _blame_last(self._role, "not the next token")
        if token.token_id >= self._role.engine.config.vocab_size:
            raise _blame_last(self._role, "an impossible token")
        self._index += 1
        self._role.note_token(token.token_id)
        is_over = token.finish is not Finish.NOT_YET or self._is_stopped
        if not is_over:
            self._compute(token.token_id)
        elapsed_us = int(self._clock.note_token() * 1e6)
        self._turns.allow(self._role.timeouts.step_s)
        # Nothing waits here for the client: an answer's tokens are few bytes.
        told = token.with_times((*token.times_us, elapsed_us))
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
        departure = role.depart_to(self._next_hop, role.session.length, ())
        self._departure = departure
        step = StepInput(1, token_ids=(token_id,), follow=departure.follow)
        pending = role.engine.submit(role.session, step)
        pending.add_done_callback(lambda done: self._turns.check_step(done, departure))


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
