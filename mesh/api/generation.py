"""Running generations for one HTTP request, and ending them with it.

Each generation is drawn from the backend by a task of its own, so that a request for several
choices gets them side by side and a request that goes away is cancelled without waiting. A
bounded queue couples the reader to the backend: a slow reader slows the generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import structlog

from mesh.api.backend import (
    Backend,
    Embeddings,
    Finished,
    Generated,
    GenerateRequest,
    Piece,
    PromptScored,
    Route,
    Routed,
)
from mesh.api.choice_turns import ChoiceTurns
from mesh.api.errors import BackendBusy, GenerationFailed
from mesh.api.gate import Gate
from mesh.api.limits import Limits
from mesh.api.measures import GatewayMeasures
from mesh.api.problems import make_overloaded
from mesh.api.stops import TokenStops
from mesh.api.usage import Allowances
from mesh.client.receipts import AnswerReceipt
from mesh.errors import MeshError
from mesh.inference.tokens import Finish, Token, Trace

MAX_PENDING_PIECES = 64

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChoiceJob:
    """One choice: what to ask of the backend, and where its text ends, with the stop or before."""

    request: GenerateRequest
    stop: tuple[str, ...] = ()
    includes_stop: bool = False


@dataclass(slots=True)
class RunningAnswer:
    """The pieces of all choices of one request, as they come.

    ``trace`` is about all of them: its route is the latest of the first choice that has one.
    ``usage_tokens[i]`` counts what the backend generated for choice i, shown or not.
    """

    jobs: tuple[ChoiceJob, ...]
    trace: Trace
    usage_tokens: list[int]
    turns: ChoiceTurns
    _queue: asyncio.Queue[tuple[int, Piece | Exception]]
    open_choices: set[int] = field(default_factory=set)
    _routes: dict[int, Route] = field(default_factory=dict)
    _cached: dict[int, int] = field(default_factory=dict)
    _routed: dict[int, Routed] = field(default_factory=dict)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Yield ``(choice, piece)`` until every choice has finished; raise what went wrong."""
        while self.open_choices:
            index, piece = await self._queue.get()
            if isinstance(piece, Exception):
                raise piece
            self._note(index, piece)
            if isinstance(piece, Finished):
                self.open_choices.discard(index)
            if not self.open_choices:
                receipts = [job.request.receipt for job in self.jobs]
                self.trace.receipts = tuple(kept.to_dict() for kept in receipts if kept)
            yield index, piece

    def _note(self, index: int, piece: Piece) -> None:
        """Take a choice's piece into account."""
        match piece:
            case Routed():
                self.trace.reroutes += self._routes.get(index, piece.route) != piece.route
                before = self._routed.get(index, Routed(piece.route))
                self.trace.refills += piece.refills - before.refills
                self.trace.replays += piece.replays - before.replays
                self._routed[index] = piece
                self._set_route(index, piece.route)
                if piece.cached_tokens is not None:
                    self._cached[index] = piece.cached_tokens
            case Generated():
                self.trace.count(time.monotonic(), tokens=len(piece.tokens))
            case Finished():
                self._set_route(index, piece.route)

    def _set_route(self, index: int, route: Route) -> None:
        if route:
            self._routes[index] = route
            self.trace.route = self._routes[min(self._routes)]

    @property
    def cached_tokens(self) -> int | None:
        """How many tokens of the prompts no hoster computed again; None where none told.

        Each prompt counts once, as in ``usage``: by its first choice, which computes it for the
        others.
        """
        first_choices: dict[int, int] = {}
        for index, job in enumerate(self.jobs):
            first_choices.setdefault(id(job.request.prompt_ids), index)
        told = [
            min(self._cached[index], len(self.jobs[index].request.prompt_ids))
            for index in first_choices.values()
            if index in self._cached
        ]
        return sum(told) if told else None

    def fail(self, error: Exception) -> None:
        """End the answer from outside; its reader gets ``error`` next."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait((0, error))

    async def put(self, index: int, piece: Piece | Exception) -> None:
        """Hand a piece to the reader; waits for a slow one."""
        await self._queue.put((index, piece))


@dataclass(slots=True)
class Generations:
    """All running answers of the gateway, children of one task group.

    While ``is_draining``, new requests are refused and the running ones finish. ``allowances`` say
    what a caller may ask for, and count what it gets.
    """

    backend: Backend
    limits: Limits
    tasks: asyncio.TaskGroup
    gate: Gate
    measures: GatewayMeasures = field(default_factory=GatewayMeasures)
    allowances: Allowances = field(default_factory=Allowances)
    is_draining: bool = False
    _answers: list[RunningAnswer] = field(default_factory=list)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def start(
        self, jobs: Sequence[ChoiceJob], *, caller: str, has_receipt: bool = False
    ) -> AsyncIterator[RunningAnswer]:
        """Generate every job's choice while the block runs; leaving it frees the backend.

        With ``has_receipt`` the trace has a receipt of each choice once all have finished.
        """
        if self.is_draining:
            raise make_overloaded(retry_after_s=5)
        models = {job.request.model_id for job in jobs}
        prompt_tokens = _count_prompts(jobs)
        self.allowances.check(caller, models=models, prompt_tokens=prompt_tokens)
        answer = RunningAnswer(
            tuple(_complete(job, caller, has_receipt=has_receipt) for job in jobs),
            Trace(started_s=time.monotonic()),
            [0] * len(jobs),
            ChoiceTurns([job.request.prompt_ids for job in jobs]),
            asyncio.Queue(MAX_PENDING_PIECES),
            set(range(len(jobs))),
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.hold_places(caller, len(jobs)))
            # Again: while it waited for a place, others may have spent the rest.
            self.allowances.charge(caller, models=models, prompt_tokens=prompt_tokens)
            self.measures.prompt_tokens += sum(len(job.request.prompt_ids) for job in jobs)
            stack.enter_context(
                self.measures.run(
                    started_s=answer.trace.started_s,
                    is_finished=lambda: not answer.open_choices,
                )
            )
            self._answers.append(answer)
            pumps = [self._start_pump(answer, index, job) for index, job in enumerate(answer.jobs)]
            try:
                yield answer
            finally:
                for index, pump in enumerate(pumps):
                    # One that has finished is closing its generator; that is not to be disturbed.
                    if index in answer.open_choices:
                        pump.cancel()
                self._answers.remove(answer)
                self.measures.reroutes += answer.trace.reroutes
                self.measures.refills += answer.trace.refills
                self.measures.replays += answer.trace.replays

    @asynccontextmanager
    async def hold_places(self, caller: str, places: int) -> AsyncIterator[None]:
        """Hold so many places while the block runs. Raises Problem 429 or 503."""
        if self.is_draining:
            raise make_overloaded(retry_after_s=5)
        async with AsyncExitStack() as stack:
            with self.measures.wait():
                await stack.enter_async_context(self.gate.enter(caller, places=places))
            yield

    async def embed(
        self, model_id: str, texts: Sequence[Sequence[int]], *, caller: str
    ) -> Embeddings:
        """Return the vectors of texts, which takes one place. Raises as the backend does."""
        started_s = time.monotonic()
        done = False
        models, tokens = {model_id}, sum(len(text) for text in texts)
        self.allowances.check(caller, models=models, prompt_tokens=tokens)
        async with self.hold_places(caller, 1):
            self.allowances.charge(caller, models=models, prompt_tokens=tokens)
            self.measures.prompt_tokens += sum(map(len, texts))
            with self.measures.run(started_s=started_s, is_finished=lambda: done):
                try:
                    async with asyncio.timeout(self.limits.generation_timeout_s):
                        found = await self.backend.embed(model_id, texts)
                except TimeoutError:
                    raise GenerationFailed("The embeddings took too long.") from None
                done = True
                return found

    def _start_pump(self, answer: RunningAnswer, index: int, job: ChoiceJob) -> asyncio.Task[None]:
        pump = self.tasks.create_task(self._pump(answer, index, job))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return pump

    def fail_all(self, error: Exception) -> None:
        """End every running answer, because the gateway stops."""
        for answer in self._answers:
            answer.fail(error)

    def cancel_all(self) -> None:
        """Cancel what still runs; the task group then ends."""
        for pump in self._pumps:
            pump.cancel()

    async def _pump(self, answer: RunningAnswer, index: int, job: ChoiceJob) -> None:
        try:
            async with asyncio.timeout(self.limits.generation_timeout_s):
                await self._generate_in_turn(answer, index, job)
        except TimeoutError:
            await answer.put(index, GenerationFailed("The answer took too long."))
        except MeshError as error:
            await answer.put(index, error)
        except Exception as error:  # noqa: BLE001
            # One request's defect must not end the others; its own reader gets it.
            await answer.put(index, error)

    async def _generate_in_turn(self, answer: RunningAnswer, index: int, job: ChoiceJob) -> None:
        """Generate a choice, again if the swarm was too busy for it beside the others."""
        turns = answer.turns
        async with turns.take_part(index):
            while True:
                try:
                    return await self._generate(answer, index, job)
                except BackendBusy as busy:
                    # Its reader has nothing of it yet, and a place is free when another ends.
                    if answer.usage_tokens[index] or not await turns.wait_for_place(
                        busy.retry_after_s
                    ):
                        raise

    async def _generate(self, answer: RunningAnswer, index: int, job: ChoiceJob) -> None:
        matcher = TokenStops(job.stop, includes_stop=job.includes_stop)
        note_tokens = self.measures.start_choice(started_s=answer.trace.started_s)
        route: Route = ()
        async with aclosing(self.backend.generate(job.request)) as pieces:
            async for piece in pieces:
                match piece:
                    case Routed():
                        route = piece.route
                        await answer.put(index, piece)
                    case PromptScored():
                        await answer.put(index, piece)
                    case Generated():
                        answer.turns.note_prompt(index)
                        answer.usage_tokens[index] += len(piece.tokens)
                        note_tokens(len(piece.tokens))
                        self.allowances.count_answer(job.request.caller, len(piece.tokens))
                        await _put_tokens(answer, index, matcher.feed(piece.tokens))
                        if matcher.is_stopped:
                            await _close(pieces, job)
                            await answer.put(index, Finished(Finish.STOP, route, matcher.found))
                            return
                    case Finished():
                        await _put_tokens(answer, index, matcher.flush())
                        await _close(pieces, job)
                        await answer.put(index, piece)
                        return
        raise GenerationFailed("The answer ended before it was finished.")


def _complete(job: ChoiceJob, caller: str, *, has_receipt: bool) -> ChoiceJob:
    # Scores of a prompt come without one.
    receipt = AnswerReceipt() if has_receipt and job.request.max_new_tokens else None
    return replace(job, request=replace(job.request, caller=caller, receipt=receipt))


async def _close(pieces: AsyncGenerator[Piece, None], job: ChoiceJob) -> None:
    """Let a receipt become complete before the reader hears of the end."""
    if job.request.receipt is not None:
        await pieces.aclose()


def _count_prompts(jobs: Sequence[ChoiceJob]) -> int:
    """Return the tokens of the prompts; choices of one prompt share it."""
    prompts = {id(job.request.prompt_ids): job.request.prompt_ids for job in jobs}
    return sum(len(prompt_ids) for prompt_ids in prompts.values())


async def _put_tokens(answer: RunningAnswer, index: int, tokens: tuple[Token, ...]) -> None:
    if tokens:
        await answer.put(index, Generated(tokens))
