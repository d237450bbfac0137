"""The steps that arrive at a later range after each other, each computed in its turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mesh.errors import MeshError
from mesh.inference.answer import AnswerState
from mesh.inference.flight_wire import AHEAD_TYPE
from mesh.inference.hops import IDLE, Departure, TurnLoop
from mesh.inference.rounds import Rounds, drop_stale
from mesh.inference.sampler import SampleRequest
from mesh.inference.steps import StepOutput
from mesh.inference.tokens import Finish
from mesh.inference.windows import decode_ahead_arrival
from mesh.inference.wire import StepFrame, make_malformed

if TYPE_CHECKING:
    from mesh.inference.pipeline import GenerationRange

Plan = tuple[Sequence[SampleRequest], Departure | None]
"""How to choose the tokens after a step, and how what it gives leaves."""


class Arrivals:
    """Computes the steps of a later range as they arrive.

    ``plan`` says what becomes of a step. ``answer`` is the answer's state at the last range: with
    its last token the session ends there, unless a receipt is wanted or windows may be under way
    that the ranges before would not get rid of. These end it then. ``in_flight`` windows may be
    under way, where all ranges from here on agreed to it; 0: one.
    """

    def __init__(
        self,
        role: GenerationRange,
        plan: Callable[[StepFrame], Plan],
        answer: AnswerState | None = None,
        *,
        in_flight: int,
    ) -> None:
        self._role = role
        self._plan = plan
        self._answer = answer
        self._in_flight = in_flight
        self._rounds = Rounds(in_flight, len(role.request.token_ids)) if in_flight else None
        self._waiting: deque[bytes] = deque()
        self._late = 0
        self._is_computing = False
        self._turns = TurnLoop(self._advance, late=IDLE)

    async def run(self) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        self._turns.allow(self._role.timeouts.idle_s)
        await self._turns.run(self._role.upstream)

    @property
    def _is_answered(self) -> bool:
        return self._answer is not None and self._answer.finish is not Finish.NOT_YET

    def _advance(self) -> None:
        """Take the next step, unless one is being computed."""
        try:
            while not (self._is_computing or self._turns.is_over):
                self._take_waiting()
                if not self._waiting:
                    return
                self._turns.allow(self._role.timeouts.idle_s)
                self._begin(self._waiting.popleft())
        except MeshError as error:
            self._turns.fail(error)

    def _take_waiting(self) -> None:
        """Take what has arrived, so that a new round is seen behind windows of the old one."""
        while len(self._waiting) < max(1, self._in_flight):
            frame = self._role.upstream.receive_now()
            if frame is None:
                break
            self._waiting.append(frame)
        drop_stale(self._waiting)

    def _begin(self, frame: bytes) -> None:
        """Compute what a frame asks for, if anything."""
        role = self._role
        if role.is_settled_by(frame):
            self._turns.finish()
        elif self._rounds is None or role.session.length < len(role.request.token_ids):
            self._submit(role.read_step(frame))
        elif self._is_answered:
            self._late += 1
            if frame[:1] != AHEAD_TYPE or self._late >= self._in_flight:
                raise make_malformed("a step after the last token")
        else:
            step = decode_ahead_arrival(frame, role.request, role.engine.config)
            last_token = None if self._answer is None else self._answer.seen[-1]
            if self._rounds.enter(step, role.session, last_token):
                self._submit(step)

    def _submit(self, step: StepFrame) -> None:
        samples, departure = self._plan(step)
        follow = None if departure is None else departure.follow
        following = self._role.make_following(step, samples, follow)
        pending = self._role.engine.submit(self._role.session, following)
        self._is_computing = True
        pending.add_done_callback(lambda done: self._on_computed(done, departure))

    def _on_computed(self, done: asyncio.Future[StepOutput], departure: Departure | None) -> None:
        self._is_computing = False
        if not self._turns.check_step(done, departure):
            return
        # With a receipt the first range says so.
        if self._is_answered and self._rounds is None and self._role.receipt is None:
            self._turns.finish()
        else:
            self._advance()
