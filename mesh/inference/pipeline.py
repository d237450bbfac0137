"""One session's way through one hoster: as the only range, the first, a middle one or the last.

Tokens enter at the first range, hidden states go from range to range, the last chooses a token
and sends it straight to the first, which computes it at once and passes it on to the client
meanwhile. So a step costs as many hops as there are ranges. Between two ranges the token goes
back on their own stream; in longer routes the last opens a loop stream to the first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from mesh.errors import MeshError, PeerError, StreamClosed
from mesh.inference.engine import Engine, EngineSession, StepInput, StepOutput
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampler import Sampled, SampleRequest
from mesh.inference.tensors import get_dtype_name, read_hidden, view_bytes
from mesh.inference.wire import (
    BLAMES_NOBODY,
    Finish,
    FrameType,
    OpenSession,
    ScoresFrame,
    StepFrame,
    TokenFrame,
    TokenScore,
    decode_error,
    decode_scores,
    decode_step,
    decode_token,
    encode_scores,
    encode_step,
    encode_token,
    get_frame_type,
)
from mesh.p2p.interface import Stream

MAX_TOKENS_AHEAD = 4
"""Tokens that may wait at the first range, for the client or from a last range that misbehaves."""

BackFrame = TokenFrame | ScoresFrame
BackQueue = asyncio.Queue[BackFrame]
"""What the last range said and the first has not yet passed on."""


def decode_back(frame: bytes) -> BackFrame:
    """Parse what the last range sends to the first. Raises Refused(MALFORMED)."""
    if get_frame_type(frame) is FrameType.SCORES:
        return decode_scores(frame)
    return decode_token(frame)


@dataclass(frozen=True, slots=True)
class SessionTimeouts:
    """Seconds. ``step_s`` is for one step through all ranges, ``idle_s`` between two of them.

    The first token may take ``prompt_token_s`` longer for every token of the prompt.
    """

    open_s: float = 10.0
    step_s: float = 30.0
    idle_s: float = 120.0
    prompt_token_s: float = 0.1


@dataclass(slots=True)
class Answer:
    """What the last range knows of the answer: its length so far, and what a penalty counts."""

    request: OpenSession
    index: int = field(init=False)
    seen: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.index = self.request.first_index
        self.seen = list(self.request.token_ids)

    def next_sample(self) -> SampleRequest:
        """Say how to choose the next token."""
        return SampleRequest(self.request.sampling, self.index, self.seen)

    def accept(self, sampled: Sampled, times_us: tuple[int, ...]) -> TokenFrame:
        """Count a chosen token and say whether it ends the answer."""
        index = self.index
        self.index += 1
        self.seen.append(sampled.token_id)
        finish = Finish.NOT_YET
        if sampled.token_id in self.request.sampling.stop_token_ids:
            finish = Finish.STOP
        elif self.index - self.request.first_index >= self.request.max_new_tokens:
            finish = Finish.LENGTH
        return TokenFrame(index, sampled.token_id, sampled.logprob, finish, sampled.top, times_us)


class AnswerAhead:
    """An answer at the only range: the compute thread goes on while its tokens are being told.

    ``follow`` runs on that thread while a step is in flight, everything else on the event loop.
    """

    def __init__(
        self, answer: Answer, submit: Callable[[StepInput], asyncio.Future[StepOutput]]
    ) -> None:
        self._answer = answer
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._tokens: deque[TokenFrame] = deque()
        self._news = asyncio.Event()
        self._paused: StepInput | None = None
        self._failure: BaseException | None = None

    def start(self, output: StepOutput) -> None:
        """Take the prompt's output and compute on, if that was not the last token."""
        step = self.follow(output)
        if step is not None:
            self._go_on(step)

    def follow(self, output: StepOutput) -> StepInput | None:
        """Note a token; return the step after it unless too many wait to be told."""
        token = self._answer.accept(_get_sampled(output), (output.elapsed_us, output.elapsed_us))
        step = None
        if token.finish is Finish.NOT_YET:
            sample = self._answer.next_sample()
            step = StepInput(1, token_ids=(token.token_id,), sample=sample, follow=self.follow)
        if len(self._tokens) + 1 >= MAX_TOKENS_AHEAD:
            # Before the token is there, so that whoever takes it finds the step too.
            self._paused, step = step, None
        self._tokens.append(token)
        self._loop.call_soon_threadsafe(self._news.set)
        return step

    async def take(self) -> TokenFrame:
        """Return the next token. Raises Refused when it could not be computed."""
        while not self._tokens:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        token = self._tokens.popleft()
        if self._paused is not None:
            step, self._paused = self._paused, None
            self._go_on(step)
        return token

    def _go_on(self, step: StepInput) -> None:
        self._submit(step).add_done_callback(self._note_end)

    def _note_end(self, future: asyncio.Future[StepOutput]) -> None:
        if not future.cancelled():
            self._failure = future.exception()
        self._news.set()


class NextHop:
    """The stream to the next range; its failures are blamed on that hop."""

    def __init__(self, stream: Stream, hop_index: int) -> None:
        self._stream = stream
        self.hop_index = hop_index

    async def send(self, frame: bytes) -> None:
        try:
            await self._stream.send(frame)
        except PeerError as error:
            raise self._lost(error) from error

    async def receive(self) -> bytes | None:
        """Return a frame that came back, None after the last. Raises Refused."""
        try:
            frame = await self._stream.receive()
        except StreamClosed:
            return None
        except PeerError as error:
            raise self._lost(error) from error
        if get_frame_type(frame) is FrameType.ERROR:
            error_frame = decode_error(frame)
            raise Refused(error_frame.reason, error_frame.detail, hop_index=error_frame.hop_index)
        return frame

    def _lost(self, error: PeerError) -> Refused:
        return Refused(RefusalReason.HOP_LOST, str(error), hop_index=self.hop_index)


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
        await run_guarded(work, self._watch_client())

    async def run_first(self, next_hop: NextHop, back: BackQueue) -> None:
        """Be the first range: feed the others, and the client from what comes ``back``."""
        guards = [self._watch_client(), self._collect_back(next_hop, back)]
        if self.request.wants_scores:
            # Feeding waits for no score, or both sides could wait for each other.
            guards.append(self._feed_prompt(next_hop))
            return await run_guarded(self._pass_scores_on(back), *guards)
        await run_guarded(self._drive(next_hop, back), *guards)

    async def run_middle(self, next_hop: NextHop) -> None:
        """Pass hidden states on until the previous range goes."""
        await run_guarded(self._pass_on(next_hop), self._watch_next(next_hop))

    async def run_last(self, back: Stream) -> None:
        """Choose tokens, or score the prompt's, and send that to the first range over ``back``."""
        if self.request.wants_scores:
            return await self._score_for_others(back)
        answer = Answer(self.request)
        finish = Finish.NOT_YET
        while finish is Finish.NOT_YET:
            step = await self._receive_step()
            wants_token = step.position + step.rows >= len(self.request.token_ids)
            output = await self._compute(step, answer.next_sample() if wants_token else None)
            if output.sampled is not None:
                token = answer.accept(output.sampled, (*step.times_us, output.elapsed_us))
                finish = token.finish
                await back.send(encode_token(token))

    async def _answer_alone(self) -> None:
        answer = Answer(self.request)
        async for _, output in self._compute_prompt(answer.next_sample()):
            last = output
        ahead = AnswerAhead(answer, lambda step: self.engine.submit(self.session, step))
        ahead.start(last)
        finish = Finish.NOT_YET
        while finish is Finish.NOT_YET:
            token = await ahead.take()
            finish = token.finish
            await self.upstream.send(encode_token(token))

    async def _score_alone(self) -> None:
        async for position, output in self._compute_prompt(None):
            await self._send_scores(self.upstream, position, output)

    async def _score_for_others(self, back: Stream) -> None:
        while self.session.length < len(self.request.token_ids):
            step = await self._receive_step()
            await self._send_scores(back, step.position, await self._compute(step, None))

    async def _send_scores(self, stream: Stream, position: int, output: StepOutput) -> None:
        scores = tuple(TokenScore(logprob, top) for logprob, top in output.scores)
        if scores:
            await stream.send(encode_scores(ScoresFrame(position + 1, scores)))

    async def _pass_scores_on(self, back: BackQueue) -> None:
        position = 1
        while position < len(self.request.token_ids):
            frame = await self._take(back, is_first=True)
            if not isinstance(frame, ScoresFrame) or frame.position != position:
                raise self._blame_last("impossible scores")
            position += len(frame.scores)
            await self.upstream.send(encode_scores(frame))

    async def _feed_prompt(self, next_hop: NextHop) -> None:
        async for position, output in self._compute_prompt(None):
            await next_hop.send(self._encode_output(position, output, ()))

    async def _drive(self, next_hop: NextHop, back: BackQueue) -> None:
        started = time.perf_counter()
        await self._feed_prompt(next_hop)
        index = self.request.first_index
        while True:
            token = await self._take_token(back, index)
            now = time.perf_counter()
            token = replace(token, times_us=(*token.times_us, int((now - started) * 1e6)))
            started, index = now, index + 1
            if token.finish is not Finish.NOT_YET:
                return await self.upstream.send(encode_token(token))
            position = self.session.length
            step = StepInput(1, token_ids=(token.token_id,))
            pending = self.engine.submit(self.session, step)
            await self.upstream.send(encode_token(token))
            await next_hop.send(self._encode_output(position, await pending, ()))

    async def _take_token(self, back: BackQueue, index: int) -> TokenFrame:
        token = await self._take(back, is_first=index == self.request.first_index)
        if not isinstance(token, TokenFrame) or token.index != index:
            raise self._blame_last("not the next token")
        if token.token_id >= self.engine.config.vocab_size:
            raise self._blame_last("an impossible token")
        return token

    async def _take(self, back: BackQueue, *, is_first: bool) -> BackFrame:
        """Return what the last range says next. Raises Refused(TIMEOUT)."""
        timeout_s = self.timeouts.step_s
        if is_first:
            timeout_s += self.timeouts.prompt_token_s * len(self.request.token_ids)
        try:
            async with asyncio.timeout(timeout_s):
                return await back.get()
        except TimeoutError as error:
            raise Refused(
                RefusalReason.TIMEOUT, "no token in time", hop_index=BLAMES_NOBODY
            ) from error

    def _blame_last(self, detail: str) -> Refused:
        return Refused(RefusalReason.HOP_LOST, detail, hop_index=len(self.request.route) - 1)

    async def _collect_back(self, next_hop: NextHop, back: BackQueue) -> None:
        """Read what comes back from the second range: tokens, if it is the last, or an error."""
        while (frame := await next_hop.receive()) is not None:
            if len(self.request.route) > 2:
                raise Refused(
                    RefusalReason.MALFORMED, "only the last range sends tokens", hop_index=1
                )
            await back.put(decode_back(frame))

    async def _watch_client(self) -> None:
        """A client says nothing after its request; when it goes, the session ends."""
        await self.upstream.receive()
        raise Refused(RefusalReason.MALFORMED, "no frame is expected after OPEN")

    async def _watch_next(self, next_hop: NextHop) -> None:
        if await next_hop.receive() is not None:
            raise Refused(RefusalReason.MALFORMED, "no frame is expected from a later range")

    async def _pass_on(self, next_hop: NextHop) -> None:
        while True:
            step = await self._receive_step()
            output = await self._compute(step, None)
            await next_hop.send(self._encode_output(step.position, output, step.times_us))

    async def _receive_step(self) -> StepFrame:
        """Return the next hidden states. Raises Refused or PeerError."""
        try:
            async with asyncio.timeout(self.timeouts.idle_s):
                frame = await self.upstream.receive()
        except TimeoutError as error:
            raise Refused(RefusalReason.TIMEOUT, "the session was idle for too long") from error
        step = decode_step(frame, hidden_size=self.engine.config.hidden_size)
        if step.position != self.session.length:
            raise Refused(
                RefusalReason.WRONG_POSITION,
                f"position {step.position} does not follow {self.session.length}",
            )
        return step

    async def _compute(self, step: StepFrame, sample: SampleRequest | None) -> StepOutput:
        hidden = read_hidden(step, self.engine.config.hidden_size)
        following = self._make_step(step.position, step.rows, hidden=hidden, sample=sample)
        return await self.engine.submit(self.session, following)

    def _make_step(
        self,
        position: int,
        rows: int,
        *,
        token_ids: Sequence[int] | None = None,
        hidden: Tensor | None = None,
        sample: SampleRequest | None = None,
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
            score_ids=score_ids,
            score_top=self.request.sampling.top_logprobs,
        )

    async def _compute_prompt(
        self, sample: SampleRequest | None
    ) -> AsyncIterator[tuple[int, StepOutput]]:
        """Compute the prompt in chunks; yield (position, output). ``sample`` is for the end."""
        token_ids, chunk = self.request.token_ids, self.engine.limits.prefill_chunk
        for position in range(0, len(token_ids), chunk):
            piece = token_ids[position : position + chunk]
            is_end = position + len(piece) == len(token_ids)
            chosen = sample if is_end else None
            step = self._make_step(position, len(piece), token_ids=piece, sample=chosen)
            yield position, await self.engine.submit(self.session, step)

    def _encode_output(self, position: int, output: StepOutput, times_us: tuple[int, ...]) -> bytes:
        if output.hidden is None:
            raise ValueError("the last block's rows do not leave as hidden states")
        return encode_step(
            StepFrame(
                position=position,
                rows=output.hidden.shape[0],
                dtype=get_dtype_name(output.hidden.dtype),
                data=view_bytes(output.hidden),
                times_us=(*times_us, output.elapsed_us),
            )
        )


def _get_sampled(output: StepOutput) -> Sampled:
    if output.sampled is None:
        raise ValueError("a token was asked for and none was chosen")
    return output.sampled


async def run_guarded(
    primary: Coroutine[None, None, None], *guards: Coroutine[None, None, None]
) -> None:
    """Run ``primary`` to its end; a guard that fails ends it, a guard that returns does not.

    Raises the first MeshError itself rather than a group around it.
    """
    failures: list[MeshError] = []

    async def keep(coroutine: Coroutine[None, None, None]) -> None:
        try:
            await coroutine
        except MeshError as error:
            failures.append(error)
            work.cancel()

    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(keep(primary))
        watchers = [tasks.create_task(keep(guard)) for guard in guards]
        await asyncio.wait([work])
        for watcher in watchers:
            watcher.cancel()
    if failures:
        raise failures[0]
