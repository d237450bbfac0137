"""The engine computes the steps of all sessions of one hoster on one compute thread.

Theory of operation
===================

**Parts.** The engine has one :class:`ShardRunner` (the weights of a range of layers and a cache
for keys and values), one compute thread, a :class:`Scheduler` (who computes next) and a
:class:`PageBook` (who holds which pages of the cache; mesh/inference/pages.py). The event loop's
side of sessions, open and parked, and of pages is mesh/inference/session_table.py, the thread's
side mesh/inference/compute_thread.py, and mesh/inference/engine_limits.py says what is taken on.

- The *event loop* owns the scheduler, the book and every count of sessions. It admits sessions,
  queues their steps, finds pages for them and starts batches.
- The *compute thread* owns the weights, the cache's contents, the buffer for hidden states and,
  while a batch runs, the lengths of the batch's sessions. It does not decide what is next.

**A session** is opened by :meth:`Engine.admit`. It holds no page at first, and gets pages when a
step is about to start for which it has too few. Leaving the block frees them. A step of the session
that is still on the thread then writes into them before any later owner does, because one thread
runs all steps in order.

**When pages run out** a step takes those of the session of the lowest rank; see pages.py. The event
loop decides that only while the thread is idle.

- Where a session's text is known, which is at a range that starts at layer 0, the session stays
  open. Once there are pages again, its text is computed again, in steps whose output goes nowhere,
  and then it goes on. It waits for pages ``page_wait_s`` at most and is refused (BUSY) after that.
- A later range has hidden states from another hoster and does not keep them. There the session is
  refused (BUSY), and its client continues the answer over another route or later. The ranges
  before and after it drop the session as they do for any refusal.
- While a session waits for pages, none that ranks after it is admitted.

**Equal prompts** are computed once. The full pages of a prompt are published when they are
computed, under keys that name the text, the layers and a salt (:class:`Prefix`). A session whose
prompt begins in the same way, with the same salt, begins with those pages. At least one token is
left to compute. A deterministic engine publishes and reuses whole chunks of prompts only, so that
what is left is cut as if nothing had been reused. Otherwise the pages of an answer are published
too, when its session ends, where the text is known: the next turn of a chat begins with them.

**A step** is a session's next rows: several rows of a prompt, one row to decode, or a *window*: a
token and a draft of what follows it, whose rows are decode rows too (mesh/inference/windows.py). A
session has at most one step waiting or running. The order of events is:

1. ``submit`` puts the step into the scheduler. If the thread is idle, it starts at once, in the
   same turn of the event loop; decode rows are held for a moment for sessions that are due
   (mesh/inference/cohorts.py). Before a batch starts, its sessions get the pages they lack.
2. The scheduler chooses a batch: a chunk of one prompt, or of several where ``prefill_tokens``
   allows it, or one decode row each of many sessions that run through the same layers. Prompt
   chunks and decode batches take turns. A challenge goes before both, because it has a deadline on
   chain.
3. The thread puts the rows of the batch side by side, runs the layers, and chooses tokens or
   computes logits for the sessions that asked.
4. If a step has a ``follow`` function, the thread calls it with the output. The function may send
   the output to a peer from there, and may return the session's next step.
5. If every session of the batch has supplied its next step, has a page for it, and nothing is
   queued, the thread continues without returning to the loop. Otherwise it returns the batch to the
   loop, which answers the sessions that wait and queues the steps that follow. So a new session
   waits for one step at most, not for the end of an answer. With CUDA graphs a decode step may be
   under way before the last one is followed (mesh/inference/decoder.py): it waits for two then.

**Rows do not depend on their neighbours** where the engine is opened with ``deterministic``: each
row then gets the same bits in a batch as alone, whatever else is being served.

**What can fail, and where.**

- ``admit`` raises Refused: the layers are not served here (WRONG_RANGE), the session exceeds the
  model's context or the cache (CONTEXT_OVERFLOW), or there is no place for it (BUSY). Peers that
  are not members of the subnet leave a part of the sessions and of the cache to members.
- ``submit`` raises Refused when the rows exceed the session's capacity, or its pages are lost.
- A batch that raises on the thread is run again, each step alone. A step that raises alone fails
  its own session with Refused(FAILED); the other sessions get what they would have got without it.
  Peers decide what hidden states and tokens are, so no step may end the node.
- A batch for which there is not enough memory is run again without its youngest session, which is
  refused (BUSY).
- A step whose hidden states are those of an open challenge fails its own session with
  Refused(CHALLENGE_RELAYED); see mesh/inference/challenge_guard.py. Every path of hidden states to
  the layers passes :func:`mesh.inference.batches.run_batch`; only :meth:`Engine.run_tasks`, the
  node's own, does not.
- A session whose ``follow`` raises fails in the same way.
- A challenge that raises ends :meth:`Engine.serve`, and with it the node: its input is our own, so
  the engine itself is broken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mesh.inference.accounts import OWN_ACCOUNT, Account
from mesh.inference.batches import BatchRunner
from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.cohorts import Cohorts
from mesh.inference.compute_thread import (
    BatchLoop,
    ChallengeJob,
    check_challenge,
    open_runner,
    prepare_thread,
)
from mesh.inference.engine_limits import (
    EngineLimits,
    Prefix,
    check_quota,
    fit_chunk,
    open_book,
)
from mesh.inference.grammar_compiler import GrammarCompiler
from mesh.inference.measures import ServingMeasures
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.scheduler import Scheduler
from mesh.inference.session_table import SessionTable
from mesh.inference.steps import (
    EngineSession,
    Job,
    StepInput,
    StepOutput,
    check_room,
    make_warm_up_step,
    plan_job,
    resolve,
)
from mesh.inference.window_wire import MAX_WINDOW_ROWS
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.challenge import ChallengeTask
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.weights import ShardWeights
from mesh.progress import track

WARM_UP_STEPS = 5

__all__ = ["Engine", "EngineLimits", "Prefix"]


class Engine:
    """Serves the layers of one shard. Use :meth:`open`."""

    def __init__(
        self,
        batches: BatchRunner,
        executor: ThreadPoolExecutor,
        limits: EngineLimits,
        guard: ChallengeGuard,
        measures: ServingMeasures,
        *,
        deterministic: bool = False,
    ) -> None:
        self.limits = limits = fit_chunk(limits, batches.max_step_rows)
        self._deterministic = deterministic
        self.guard = guard
        self.grammars: GrammarCompiler | None = None
        """Compiles the grammars of answers; None: this hoster takes none."""
        self.measures = measures
        self._batches = batches
        self._runner = runner = batches.runner
        self._executor = executor
        self._book = open_book(limits, max_context=runner.weights.config.max_context)
        self._scheduler: Scheduler[Job, ChallengeJob] = Scheduler(
            limits.max_batch_rows, 0 if deterministic else limits.prefill_tokens
        )
        self._table = SessionTable(limits, self._book, self._scheduler, deterministic=deterministic)
        self._plan = partial(plan_job, chunk=limits.prefill_chunk, deterministic=deterministic)
        self._batch_loop = BatchLoop(
            batches,
            measures,
            is_anything_waiting=lambda: self._scheduler.is_anything_waiting,
            plan=self._plan,
        )
        self._cohorts = Cohorts()
        self._hold: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._is_serving = False
        self._running: asyncio.Future[list[Job]] | None = None
        self._batch: tuple[asyncio.Future[list[Job]] | None, frozenset[int]] = (None, frozenset())
        """The last batch that the thread was handed, and the sessions in it."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        load: Callable[[], ShardWeights],
        *,
        limits: EngineLimits | None = None,
        threads: int = 1,
        deterministic: bool = False,
        guard: ChallengeGuard | None = None,
        measures: ServingMeasures | None = None,
        use_graphs: bool | None = None,
        hop_dtype: str | None = None,
    ) -> AsyncIterator[Engine]:
        """Load weights on the compute thread; :meth:`serve` must run while anything is asked.

        ``threads`` are torch's, for decode steps at most so many; ``deterministic`` makes a row's
        bits independent of its batch; ``guard`` knows the challenges that are open; ``measures``
        counts what is served; ``use_graphs`` computes decode steps over fixed shapes, None: on a
        GPU. ``hop_dtype`` is the type of hidden states that leave, None: the compute type. Raises
        ModelError.
        """
        limits, guard = limits or EngineLimits(), guard or ChallengeGuard()
        executor = ThreadPoolExecutor(
            1, thread_name_prefix="compute", initializer=prepare_thread, initargs=(threads,)
        )

        def build() -> BatchRunner:
            return open_runner(
                load(),
                limits,
                guard,
                deterministic=deterministic,
                use_graphs=use_graphs,
                hop_dtype=hop_dtype,
            )

        try:
            batches = await asyncio.get_running_loop().run_in_executor(executor, build)
            yield cls(
                batches,
                executor,
                limits,
                guard,
                measures or ServingMeasures(),
                deterministic=deterministic,
            )
        finally:
            # The thread ends after the step it is in, which is short.
            executor.shutdown(wait=True, cancel_futures=True)

    @property
    def config(self) -> ModelConfig:
        return self._runner.weights.config

    @property
    def layers(self) -> LayerSpan:
        """The layers this engine serves."""
        return LayerSpan(self._runner.weights.start, self._runner.weights.end)

    @property
    def free_cache_tokens(self) -> int:
        """The tokens that a new session may promise."""
        return self._book.unpromised_pages * PAGE_TOKENS

    @property
    def is_deterministic(self) -> bool:
        """Whether equal bits go before speed."""
        return self._deterministic

    @property
    def session_count(self) -> int:
        return len(self._table)

    @property
    def takes_windows(self) -> bool:
        """Whether a window's rows have the bits that the engine promises.

        Where decode steps have fixed shapes, the rows of a deterministic engine go through those;
        a window that does not fit would take another way, whose kernels may sum in another order.
        """
        fits = self.limits.max_batch_rows >= MAX_WINDOW_ROWS
        return fits or not (self._deterministic and self._batches.has_graphs)

    @property
    def drafts_alone(self) -> bool:
        """Whether an answer is drafted that all layers of are served here."""
        is_on_cpu = self._runner.weights.device.type == "cpu"
        return is_on_cpu and not self._deterministic

    @property
    def draft_room(self) -> int:
        """How many tokens one session may draft now: the windows of all fit into a batch."""
        return self.limits.max_batch_rows // max(1, self.session_count) - 1

    @property
    def is_pressed(self) -> bool:
        """Whether a session waits for its turn, so that none should send rows ahead."""
        return self._table.is_any_starved or self._scheduler.is_turn_waiting

    @property
    def waiting_count(self) -> int:
        """Sessions whose next step waits for the compute thread."""
        return self._scheduler.waiting_count

    @contextmanager
    def admit(
        self,
        span: LayerSpan,
        *,
        capacity: int,
        account: Account,
        promised: int | None = None,
        prefix: Prefix | None = None,
    ) -> Iterator[EngineSession]:
        """Open a session of at most ``capacity`` tokens; leaving the block frees its pages.

        ``promised`` tokens are computed soon, so there must be pages for them beside what others
        promised; None promises all. The session's length says how much of ``prefix`` is there
        already. Raises Refused: WRONG_RANGE, CONTEXT_OVERFLOW or BUSY.
        """
        if not self.layers.covers(span):
            raise Refused(RefusalReason.WRONG_RANGE, f"this hoster serves blocks {self.layers}")
        self._table.check_capacity(capacity, max_context=self.config.max_context)
        check_quota(account, self._table.accounts, self.limits)
        session = self._table.open(span, capacity, account, promised=promised)
        try:
            if prefix is not None:
                self._table.reuse(session, prefix)
            yield session
        finally:
            if prefix is not None:
                self.measures.note_prefix(len(prefix.token_ids), session.reused)
            self._leave(session)

    @contextmanager
    def resume(
        self, session: EngineSession, *, account: Account, promised: int
    ) -> Iterator[EngineSession]:
        """Let a parked session go on with its pages, on ``account``; leaving the block frees or
        parks them.

        Raises Refused(BUSY) as :meth:`admit` does; the session is parked still.
        """
        check_quota(account, self._table.accounts, self.limits)
        self._table.resume(session, account, promised=promised)
        try:
            yield session
        finally:
            self._leave(session)

    def _leave(self, session: EngineSession) -> None:
        self._table.leave(session)
        self._cohorts.forget(session.serial)
        # It may be the one that is awaited, or leave pages to those that wait for some.
        if self._hold is not None or self._table.is_any_starved:
            self._wake.set()

    def is_parked(self, session: EngineSession) -> bool:
        """Whether a session that was parked has its pages still."""
        return self._table.is_parked(session)

    def forget(self, session: EngineSession) -> None:
        """Free the pages of a parked session."""
        if self._table.forget(session):
            # Sessions that wait for pages may have some now.
            self._wake.set()

    async def settle(self, session: EngineSession) -> None:
        """Wait until the thread has ended the step of a parked session that it was in."""
        running, serials = self._batch
        if running is None or session.serial not in serials:
            return
        await asyncio.wait([running])
        # In this turn serve() passes over what follows the step, since the session is closed still.
        await asyncio.sleep(0)

    def go_back(self, session: EngineSession, tokens: int) -> None:
        """Let a session that computes nothing go on after ``tokens`` of its text, or fewer."""
        self._table.go_back(session, tokens)

    def reuse_less(self, session: EngineSession, tokens: int) -> None:
        """Let a session, of which nothing is computed yet, begin with fewer tokens.

        Raises Refused(WRONG_POSITION) unless these are whole pages of those that it began with.
        """
        self._table.reuse_less(session, tokens)

    def submit(self, session: EngineSession, step: StepInput) -> asyncio.Future[StepOutput]:
        """Queue a session's next rows, one step after the other; ``follow`` may name more.

        Returns the last step's output. Raises Refused(CONTEXT_OVERFLOW) when the rows exceed the
        session's capacity, and Refused(BUSY) when its pages are lost.
        """
        if session.loss is not None:
            raise session.loss
        check_room(session, step)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[StepOutput] = loop.create_future()
        if step.is_decode and not step.is_ahead:
            self._cohorts.note_step(session.serial, loop.time())
        self._queue(Job(session, step, future, time.perf_counter()))
        return future

    def _queue(self, job: Job) -> None:
        self._table.queue(self._plan(job))
        if self._is_serving and self._running is None and not self._scheduler.has_challenge:
            # The thread is idle: it starts now, not when the event loop comes round to serve().
            self._start_batch()
        self._wake.set()

    async def measure_throughput(self) -> int:
        """Run a few rows through every layer; return rows through one layer per second.

        Proves that the shard computes before the node announces itself. :meth:`serve` must run.
        Raises Refused(BUSY) when no cache is left for it.
        """
        layers = self.layers
        with (
            self.admit(layers, capacity=WARM_UP_STEPS, account=OWN_ACCOUNT) as session,
            track("warming up", total=WARM_UP_STEPS, unit="steps") as step,
        ):
            elapsed_s = []
            for _ in range(WARM_UP_STEPS):
                started = time.perf_counter()
                await self.submit(session, make_warm_up_step(layers, self.config))
                elapsed_s.append(time.perf_counter() - started)
                step(1)
        return max(1, int(len(layers) / min(elapsed_s)))

    async def run_tasks(self, tasks: Sequence[ChallengeTask]) -> tuple[NDArray[np.float32], ...]:
        """Run each challenged layer alone in float32 and return its last position.

        The vector has hidden_size values, or one logit for each of ``head_rows``. Goes before
        user traffic. Raises Refused(WRONG_RANGE) for a layer that is not served here.
        """
        for task in tasks:
            check_challenge(task, self.config, self.layers)
        loop = asyncio.get_running_loop()
        jobs = [ChallengeJob(task, loop.create_future()) for task in tasks]
        for job in jobs:
            self._scheduler.add_challenge(job)
        self._wake.set()
        return tuple([await job.future for job in jobs])

    async def serve(self) -> None:
        """Hand the thread one batch after the other until cancelled: a task of the node's group."""
        self._is_serving = True
        try:
            while True:
                await self._wake.wait()
                await self._serve_next()
        finally:
            self._is_serving = False

    async def _serve_next(self) -> None:
        """See one batch or challenge to its end, or find that there is none."""
        challenge = self._scheduler.take_challenge() if self._running is None else None
        if challenge is not None:
            await self._run_challenge(challenge)
            return
        running = self._running or self._start_batch()
        if running is None:
            self._wake.clear()
            return
        following = await running
        self._table.publish_all()
        for job in following:
            if job.session.is_open:
                self._queue(job)
        # Sessions that go on at once get into the next batch together.
        await asyncio.sleep(0)
        self._running = None

    async def _run_challenge(self, challenge: ChallengeJob) -> None:
        loop = asyncio.get_running_loop()
        self._running = loop.create_future()
        try:
            vector = await loop.run_in_executor(
                self._executor, self._batch_loop.run_challenge, challenge.task
            )
        finally:
            self._running = None
        self.measures.challenges += 1
        resolve(challenge.future, vector)

    def _start_batch(self) -> asyncio.Future[list[Job]] | None:
        """Hand the idle thread what waits; None if nothing does."""
        for job in self._table.take_ready():
            self._table.queue(self._plan(job))
        if self._is_held():
            return None
        batch = self._take_batch()
        if not batch:
            return None
        loop = asyncio.get_running_loop()
        self._running = loop.create_future()
        self._batch = self._running, frozenset(job.session.serial for job in batch)
        self._executor.submit(self._batch_loop.run, batch, loop, self._running)
        return self._running

    def _is_held(self) -> bool:
        """Whether the decode rows that wait are held for sessions that are due at any moment."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        until_s = self._cohorts.hold_until(self._scheduler.waiting_decodes, now_s)
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if until_s <= now_s:
            return False
        self._hold = loop.call_at(until_s, self._wake.set)
        return True

    def _take_batch(self) -> list[Job]:
        """Return the next batch whose sessions have pages for it; empty if nothing can go on."""
        while works := self._scheduler.take_batch():
            batch = self._table.find_pages([work.payload for work in works])
            if batch:
                return batch
        return []
