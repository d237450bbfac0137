"""One session's way through one hoster: as the only range, the first, a middle one or the last.

Tokens enter at the first range, hidden states go from range to range, the last chooses a token
and sends it straight to the first, which computes it at once and passes it on to the client
meanwhile. So a step costs as many hops as there are ranges. Between two ranges the token goes
back on their own stream; in longer routes the last opens a loop stream to the first.

A step is handed to the compute thread in the turn of the event loop in which it arrived, and
what it gives leaves from that thread: every other hand-over would be a part of the hop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from mesh.errors import MeshError
from mesh.inference.answer import Answer, AnswerAlone
from mesh.inference.engine import Engine, EngineSession, Follow, StepInput, StepOutput
from mesh.inference.hops import Deadline, Departure, NextHop, SessionTimeouts, run_guarded
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampler import SampleRequest
from mesh.inference.wire import (
    Finish,
    HiddenRows,
    OpenSession,
    ScoresFrame,
    StepFrame,
    TokenScore,
    decode_step,
    encode_scores,
    encode_step,
    encode_token,
)
from mesh.p2p.interface import Stream

IDLE = "the session was idle for too long"


@dataclass(frozen=True, slots=True)
class RangeSession:
    """One request at one hoster, with everything that its role needs."""

    engine: Engine
    session: EngineSession
    request: OpenSession
    upstream: Stream
    timeouts: SessionTimeouts

    async def run_only(self) -> None:
        """Be the only range: compute, choose, tell the client."""
        work = self._score_alone() if self.request.wants_scores else self._answer_alone()
        await run_guarded(work, self.watch_client())

    async def run_middle(self, next_hop: NextHop) -> None:
        """Pass hidden states on until the previous range goes."""
        await run_guarded(self._pass_on(next_hop), self._watch_next(next_hop))

    async def _pass_on(self, next_hop: NextHop) -> None:
        while self.session.length < len(self.request.token_ids):
            # A prompt's rows are many bytes, so they wait for a slow link.
            step = await self._receive_step()
            output = await self.engine.submit(self.session, self.make_following(step))
            await next_hop.send(self.encode_output(step.position, output, step.times_us))

        def plan(step: StepFrame) -> Plan:
            return None, self.depart_to(next_hop, step.position, step.times_us)

        await Arrivals(self, plan, is_over=lambda: False).run()

    async def run_last(self, back: Stream) -> None:
        """Choose tokens, or score the prompt's, and send that to the first range over ``back``."""
        if self.request.wants_scores:
            return await self._score_for_others(back)
        answer = Answer(self.request)

        def plan(step: StepFrame) -> Plan:
            if step.position + step.hidden.rows < len(self.request.token_ids):
                return None, None

            def send(output: StepOutput) -> None:
                token = answer.accept(output, (*step.times_us, output.elapsed_us))
                back.send_now(encode_token(token))

            return answer.next_sample(), Departure(send)

        await Arrivals(self, plan, is_over=lambda: answer.finish is not Finish.NOT_YET).run()

    async def _answer_alone(self) -> None:
        answer = Answer(self.request)
        alone = AnswerAlone(answer, self.upstream.send_now)
        async for _ in self.compute_prompt(answer.next_sample(), alone.follow):
            alone.check()

    async def _score_alone(self) -> None:
        async for position, output in self.compute_prompt(None):
            await self._send_scores(self.upstream, position, output)

    async def _score_for_others(self, back: Stream) -> None:
        while self.session.length < len(self.request.token_ids):
            step = await self._receive_step()
            output = await self.engine.submit(self.session, self.make_following(step))
            await self._send_scores(back, step.position, output)

    async def _send_scores(self, stream: Stream, position: int, output: StepOutput) -> None:
        scores = tuple(TokenScore(logprob, top) for logprob, top in output.scores)
        if scores:
            await stream.send(encode_scores(ScoresFrame(position + 1, scores)))

    async def watch_client(self) -> None:
        """A client says nothing after its request; when it goes, the session ends."""
        await self.upstream.receive()
        raise Refused(RefusalReason.MALFORMED, "no frame is expected after OPEN")

    async def _watch_next(self, next_hop: NextHop) -> None:
        if await next_hop.receive() is not None:
            raise Refused(RefusalReason.MALFORMED, "no frame is expected from a later range")

    async def _receive_step(self) -> StepFrame:
        """Return the next hidden states. Raises Refused or PeerError."""
        try:
            async with asyncio.timeout(self.timeouts.idle_s):
                frame = await self.upstream.receive()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, IDLE) from error
        return self.read_step(frame)

    def read_step(self, frame: bytes) -> StepFrame:
        """Parse the next hidden states. Raises Refused."""
        step = decode_step(frame, hidden_size=self.engine.config.hidden_size)
        if step.position != self.session.length:
            raise Refused(
                RefusalReason.WRONG_POSITION,
                f"position {step.position} does not follow {self.session.length}",
            )
        return step

    def make_following(
        self, step: StepFrame, sample: SampleRequest | None = None, follow: Follow | None = None
    ) -> StepInput:
        """Return what the engine is to compute of a step that arrived."""
        hidden = step.hidden
        return self._make_step(
            step.position, hidden.rows, hidden=hidden, sample=sample, follow=follow
        )

    def depart_to(self, next_hop: NextHop, position: int, times_us: tuple[int, ...]) -> Departure:
        """Return the departure of a step's hidden states to the next range."""
        return Departure(
            lambda output: next_hop.send_now(self.encode_output(position, output, times_us))
        )

    def _make_step(
        self,
        position: int,
        rows: int,
        *,
        token_ids: Sequence[int] | None = None,
        hidden: HiddenRows | None = None,
        sample: SampleRequest | None = None,
        follow: Follow | None = None,
    ) -> StepInput:
        """Return the next rows, with the scores that the last range owes for them."""
        score_ids: Sequence[int] = ()
        if self.request.wants_scores and self.request.is_last:
            score_ids = self.request.token_ids[position + 1 : position + 1 + rows]
        return StepInput(
            rows,
            token_ids=token_ids,
            hidden=hidden,
            sample=sample,
            follow=follow,
            score_ids=score_ids,
            score_top=self.request.sampling.top_logprobs,
        )

    async def compute_prompt(
        self, sample: SampleRequest | None, follow: Follow | None = None
    ) -> AsyncIterator[tuple[int, StepOutput]]:
        """Compute the prompt in chunks; yield (position, output).

        ``sample`` and ``follow`` are for the last of them.
        """
        token_ids, chunk = self.request.token_ids, self.engine.limits.prefill_chunk
        for position in range(0, len(token_ids), chunk):
            piece = token_ids[position : position + chunk]
            is_end = position + len(piece) == len(token_ids)
            step = self._make_step(
                position,
                len(piece),
                token_ids=piece,
                sample=sample if is_end else None,
                follow=follow if is_end else None,
            )
            yield position, await self.engine.submit(self.session, step)

    def encode_output(self, position: int, output: StepOutput, times_us: tuple[int, ...]) -> bytes:
        """Encode a step's hidden states for the next range."""
        if output.hidden is None:
            raise ValueError("the last block's rows do not leave as hidden states")
        return encode_step(StepFrame(position, output.hidden, (*times_us, output.elapsed_us)))


Plan = tuple[SampleRequest | None, Departure | None]
"""How to choose the token after a step, and how what it gives leaves."""


class Arrivals:
    """Computes the steps of a later range as they arrive.

    ``plan`` says what becomes of a step; the session ends once ``is_over``.
    """

    def __init__(
        self, role: RangeSession, plan: Callable[[StepFrame], Plan], *, is_over: Callable[[], bool]
    ) -> None:
        self._role = role
        self._plan = plan
        self._is_over = is_over
        self._is_computing = False
        self._deadline = Deadline(IDLE)
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve the session to its end. Raises Refused or PeerError."""
        upstream = self._role.upstream
        self._deadline.move(self._role.timeouts.idle_s)
        upstream.watch(self._advance)
        try:
            self._advance()
            await self._deadline.wait_for(self._end)
        finally:
            upstream.watch(None)
            self._end.cancel()

    def _advance(self) -> None:
        """Take the next step, unless one is being computed."""
        if self._is_computing or self._end.done():
            return
        try:
            frame = self._role.upstream.receive_now()
            if frame is None:
                return
            self._deadline.move(self._role.timeouts.idle_s)
            self._submit(self._role.read_step(frame))
        except MeshError as error:
            self._end.set_exception(error)

    def _submit(self, step: StepFrame) -> None:
        sample, departure = self._plan(step)
        follow = None if departure is None else departure.follow
        following = self._role.make_following(step, sample, follow)
        pending = self._role.engine.submit(self._role.session, following)
        self._is_computing = True
        pending.add_done_callback(lambda done: self._on_computed(done, departure))

    def _on_computed(self, done: asyncio.Future[StepOutput], departure: Departure | None) -> None:
        self._is_computing = False
        if self._end.done() or done.cancelled():
            return
        try:
            done.result()
            if departure is not None:
                departure.check()
        except MeshError as error:
            self._end.set_exception(error)
            return
        if self._is_over():
            self._end.set_result(None)
        else:
            self._advance()
