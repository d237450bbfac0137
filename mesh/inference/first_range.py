"""A session at the first of several ranges: it feeds the next one and forwards the answers.

mesh/inference/pipeline.py describes the whole session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mesh.errors import MeshError, StreamClosed
from mesh.inference.drafting import Drafter
from mesh.inference.flight import Flight, Landing, SentWindow
from mesh.inference.flight_wire import decode_verified
from mesh.inference.hops import Departure, NextHop, TurnLoop, run_guarded
from mesh.inference.measures import TokenClock
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.steps import StepInput, StepOutput
from mesh.inference.tokens import Finish, Token
from mesh.inference.window_wire import decode_tokens
from mesh.inference.wire import (
    BLAMES_NO_HOP,
    NO_ROWS,
    FrameType,
    Lead,
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
TOKEN_TYPE = bytes((FrameType.TOKEN,))
TOKENS_TYPE = bytes((FrameType.TOKENS,))
VERIFIED_TYPE = bytes((FrameType.VERIFIED,))


class AnswerAtFirst:
    """Generates an answer: computes each token that comes back in the turn in which it arrives.

    Where the last range says that it verifies windows of rounds, the next windows are sent ahead
    (mesh/inference/rounds.py). A session computes one step after the other, so what is to follow
    waits while one that turned out wrong is computed still.
    """

    def __init__(self, role: GenerationRange) -> None:
        self._role = role
        self._index = role.request.first_index
        self._next_hop: NextHop | None = None
        self._flight = Flight()
        self._newest: Departure | None = None
        self._restart: tuple[int, int] | None = None
        """A chosen token and its position, while a wrong step is computed."""
        self._is_pipelined = False
        self._prompt_has_left = False
        self._is_stopped = False
        self._drafter: Drafter | None = None
        self._clock = TokenClock(role.engine.measures)
        self._turns = TurnLoop(self._on_arrival, late=NO_TOKEN)

    async def run(self, next_hop: NextHop) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        role = self._role
        self._next_hop = next_hop
        role.session.verified = len(role.request.token_ids)
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
            await role.send_prompt(next_hop, position, output)

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
            tokens = self._decode(frame)
            self._check(tokens)
            landing = self._land(tokens)
            if frame[:1] != TOKEN_TYPE:
                self._learn(tokens, landing)
            self._accept(tokens, landing)
        except MeshError as error:
            self._turns.fail(error)

    def _decode(self, frame: bytes) -> tuple[Token, ...]:
        """Return the tokens of a frame, in the form that the session was opened for."""
        kind, next_hop, oldest = frame[:1], self._next_hop, self._flight.oldest
        is_first = self._drafter is None
        if next_hop is not None and next_hop.in_flight and kind == VERIFIED_TYPE:
            number, tokens = _decode_from_last(self._role, frame, decode_verified)
            if number != self._flight.round or not (is_first or self._is_pipelined):
                raise _blame_last(self._role, f"round {number} and not {self._flight.round}")
            self._is_pipelined = True
            return tokens
        if self._is_pipelined:
            raise _blame_last(self._role, "it did not verify a window")
        if next_hop is not None and next_hop.window and kind == TOKENS_TYPE:
            return _decode_from_last(self._role, frame, decode_tokens)
        if oldest is not None and oldest.draft:
            raise _blame_last(self._role, "it did not verify a draft")
        return (_decode_from_last(self._role, frame, decode_token),)

    def _check(self, tokens: Sequence[Token]) -> None:
        """Raise Refused that blames the last range unless these are what a step may give."""
        token_ids = [token.token_id for token in tokens]
        is_next = [token.index for token in tokens] == [self._index + i for i in range(len(tokens))]
        oldest = self._flight.oldest
        may_come = self._prompt_has_left if self._newest is None else oldest is not None
        if oldest is not None:
            # The step that gives the next token has left.
            may_come = oldest.departure.has_left
        if not is_next or not may_come:
            raise _blame_last(self._role, "not the next token")
        if max(token_ids) >= self._role.engine.config.vocab_size:
            raise _blame_last(self._role, "an impossible token")
        draft = () if oldest is None else oldest.draft
        if tuple(token_ids[:-1]) != draft[: len(tokens) - 1]:
            raise _blame_last(self._role, "tokens that were not drafted")
        if any(token.finish is not Finish.NOT_YET for token in tokens[:-1]):
            raise _blame_last(self._role, "tokens after the end")

    def _land(self, tokens: Sequence[Token]) -> Landing | None:
        """Take what the oldest window gave; None for the prompt's token."""
        if not self._flight:
            return None
        landing = self._flight.land([token.token_id for token in tokens])
        self._role.session.verified = landing.end
        return landing

    def _learn(self, tokens: Sequence[Token], landing: Landing | None) -> None:
        """Note what became of a draft. The last range verifies drafts: its frames say so."""
        token_ids, next_hop = [token.token_id for token in tokens], self._next_hop
        if next_hop is not None and self._drafter is None:
            in_flight = next_hop.in_flight if self._is_pipelined else 1
            self._drafter = Drafter(
                self._role.request.token_ids, most=next_hop.window - 1, in_flight=in_flight
            )
            self._drafter.begin(token_ids[0])
        elif self._drafter is not None and landing is not None:
            drafted = len(landing.window.draft)
            if drafted:
                self._role.engine.measures.note_draft(drafted, len(tokens) - 1)
            if landing.window.guess is not None:
                self._drafter.note_flight(is_right=landing.is_guessed)
            self._role.engine.measures.note_dropped(landing.dropped)
            self._drafter.note(token_ids, drafted=drafted, elapsed_s=self._clock.read())

    def _accept(self, tokens: Sequence[Token], landing: Landing | None) -> None:
        """Submit the step after some tokens, then send them to the client."""
        self._index += len(tokens)
        last = tokens[-1]
        for token in tokens:
            self._role.note_token(token.token_id)
        is_over = last.finish is not Finish.NOT_YET or self._is_stopped
        if not is_over:
            if landing is not None and landing.goes_on:
                self._go_ahead()
            else:
                self._go_back(last.token_id, landing)
        self._turns.allow(self._role.timeouts.step_s)
        self._tell(tokens, landing)
        if is_over:
            self._turns.finish()

    def _tell(self, tokens: Sequence[Token], landing: Landing | None) -> None:
        """Send tokens to the client; the first has the step's times, and what was dropped."""
        dropped = 0 if landing is None else landing.dropped
        now_s = time.perf_counter()
        for place, token in enumerate(tokens):
            gap_s = self._clock.note_token()
            step_s = gap_s if landing is None else now_s - landing.window.handed_over_s
            times_us = (*token.times_us, int(step_s * 1e6), *((dropped,) if dropped else ()))
            # Nothing waits here for the client: an answer's tokens are few bytes.
            told = token.with_times(() if place else times_us)
            self._role.upstream.send_now(encode_token(told))

    def _go_back(self, token_id: int, landing: Landing | None) -> None:
        """Go on from a chosen token, and not from what is under way, if anything is."""
        position = self._role.session.length if landing is None else landing.end
        if self._newest is not None and not self._newest.has_left:
            self._newest.drop()
            self._restart = (token_id, position)
        else:
            self._begin(token_id, position)

    def _begin(self, token_id: int, position: int) -> None:
        """Forget the rows of drafts that turned out wrong; submit the step of a chosen token."""
        self._restart = None
        self._role.session.rewind(position)
        room = min(self._left - 1, self._role.engine.draft_room)
        draft, guess = ((), None) if self._drafter is None else self._drafter.draft_more(room)
        self._submit((token_id, *draft), guess)

    def _go_ahead(self) -> None:
        """Submit a window after those under way, where that pays and the engine is free."""
        newest, drafter, engine = self._flight.newest, self._drafter, self._role.engine
        if newest is None or newest.guess is None or drafter is None or self._is_stopped:
            return
        left = self._left - self._flight.rows
        is_free = newest.departure.has_left and not engine.is_pressed
        if not is_free or left <= 0 or len(self._flight) >= self._count_in_flight(drafter):
            return
        ahead = (*self._flight.ahead, newest.guess)
        draft, guess = drafter.draft_more(min(left - 1, engine.draft_room), ahead=ahead)
        self._submit((newest.guess, *draft), guess)

    def _count_in_flight(self, drafter: Drafter) -> int:
        """Return how many windows may be under way.

        Sessions share what one alone may have: several keep the ranges busy by themselves, and
        their windows are computed together, which windows that are sent ahead are not.
        """
        if self._next_hop is None or not self._is_pipelined:
            return 1
        share = self._next_hop.in_flight // max(1, self._role.engine.session_count)
        return min(drafter.in_flight, share)

    @property
    def _left(self) -> int:
        """How many tokens may still come."""
        request = self._role.request
        return request.max_new_tokens - (self._index - request.first_index)

    def _submit(self, token_ids: tuple[int, ...], guess: int | None) -> None:
        role, flight, draft = self._role, self._flight, token_ids[1:]
        if self._next_hop is None:
            raise _blame_last(role, "a token before the prompt")
        lead = Lead(flight.round, token_ids[0], len(flight)) if self._is_pipelined else None
        frame = StepFrame(role.session.length, NO_ROWS, draft=draft, lead=lead)
        departure = role.depart_to(self._next_hop, frame)
        step = StepInput(
            len(token_ids),
            token_ids=token_ids,
            follow=departure.follow,
            window=() if draft else None,
            is_ahead=len(flight) > 0,
        )
        pending = role.engine.submit(role.session, step)
        self._newest = departure
        flight.add(SentWindow(frame.position, token_ids, guess, departure, time.perf_counter()))
        pending.add_done_callback(lambda done: self._on_computed(done, departure))

    def _on_computed(self, done: asyncio.Future[StepOutput], departure: Departure) -> None:
        """Go back if a chosen token waits for this step, else go ahead."""
        if not self._turns.check_step(done, departure) or departure is not self._newest:
            return
        try:
            if self._restart is not None:
                self._begin(*self._restart)
            else:
                self._go_ahead()
        except MeshError as error:
            self._turns.fail(error)


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
            await self._role.send_prompt(next_hop, position, output)

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
