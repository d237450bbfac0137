"""The engine computes the steps of all sessions of one hoster on one compute thread.

Theory of operation
===================

**Parts.** The engine has one :class:`ShardRunner` (the weights of a range of layers and a cache
for keys and values), one compute thread, a :class:`Scheduler` (who computes next) and a
:class:`PageBook` (who holds which pages of the cache; mesh/inference/pages.py).

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
import itertools
import logging
import math
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mesh.inference.accounts import OWN_ACCOUNT, Account
from mesh.inference.batches import BatchRunner, make_failure
from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.cohorts import Cohorts
from mesh.inference.decoder import keep_promised
from mesh.inference.grammar_compiler import GrammarCompiler
from mesh.inference.measures import ServingMeasures
from mesh.inference.pages import NoPages, PageBook, Rank, compute_page_keys
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.scheduler import Scheduler, Work
from mesh.inference.steps import EngineSession, Job, StepInput, StepOutput
from mesh.inference.window_wire import MAX_WINDOW_ROWS
from mesh.inference.wire import DTYPE_SIZES, HiddenRows
from mesh.model.capacity import PAGE_TOKENS, count_pages
from mesh.model.challenge import (
    ChallengeTask,
    run_challenge_head,
    run_challenge_layer,
    use_exact_float32,
)
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.llama import ShardRunner
from mesh.model.step_graphs import make_step_graphs
from mesh.model.weights import DTYPES, ShardWeights
from mesh.progress import track

T = TypeVar("T")
WARM_UP_STEPS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes on. ``cache_tokens`` are slots for one token in every served layer; the
    cache has whole pages, so it may hold a few more.
    """

    cache_tokens: int = 8192
    max_sessions: int = 64
    max_sessions_per_peer: int = 16
    reserved_divisor: int = 4
    """One part in so many of the cache and the sessions is kept for members."""
    max_batch_rows: int = 32
    prefill_chunk: int = 128
    prefill_tokens: int = 0
    """Prompts of several sessions share a step of so many rows at most; 0: each goes alone. A
    deterministic engine lets each go alone."""
    page_wait_s: float = 20.0
    """A session whose pages went to another one waits so long for pages, and is refused then."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt whose beginning may be computed already.

    ``salt`` says whose: sessions of different salts share nothing, since a first token that comes
    early tells that someone else sent the same text. At most ``limit`` tokens are reused.
    """

    salt: bytes
    token_ids: Sequence[int]
    limit: int


@dataclass(frozen=True, slots=True)
class _ChallengeJob:
    task: ChallengeTask
    future: asyncio.Future[NDArray[np.float32]]


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
        self.limits = limits = _fit_chunk(limits, batches.max_step_rows)
        self._deterministic = deterministic
        self.guard = guard
        self.grammars: GrammarCompiler | None = None
        """Compiles the grammars of answers; None: this hoster takes none."""
        self.measures = measures
        self._batches = batches
        self._runner = runner = batches.runner
        self._executor = executor
        self._book = _open_book(limits, max_context=runner.weights.config.max_context)
        self._scheduler: Scheduler[Job, _ChallengeJob] = Scheduler(
            limits.max_batch_rows, 0 if deterministic else limits.prefill_tokens
        )
        self._serials = itertools.count()
        self._sessions: dict[int, EngineSession] = {}
        self._parked: dict[int, EngineSession] = {}
        self._starved: dict[int, Job] = {}
        self._page_timers: dict[int, asyncio.TimerHandle] = {}
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

        ``threads`` are torch's; ``deterministic`` makes a row's bits independent of its batch;
        ``guard`` knows the challenges that are open; ``measures`` counts what is served;
        ``use_graphs`` computes decode steps over fixed shapes, None: on a GPU. ``hop_dtype`` is the
        type of hidden states that leave, None: the compute type. Raises ModelError.
        """
        limits, guard = limits or EngineLimits(), guard or ChallengeGuard()
        executor = ThreadPoolExecutor(
            1, thread_name_prefix="compute", initializer=_prepare_thread, initargs=(threads,)
        )

        def build() -> BatchRunner:
            return _open_runner(
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
        return len(self._sessions)

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
        return bool(self._starved) or self._scheduler.is_turn_waiting

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
        if not 0 < capacity <= self.config.max_context:
            raise Refused(
                RefusalReason.CONTEXT_OVERFLOW,
                f"{capacity} tokens do not fit into a context of {self.config.max_context}",
            )
        room = self._book.pages * PAGE_TOKENS
        if capacity > room:
            raise Refused(
                RefusalReason.CONTEXT_OVERFLOW,
                f"{capacity} tokens do not fit into a cache of {room}",
            )
        self._check_quota(account)
        session = self._open_session(span, capacity, account, promised=promised)
        try:
            if prefix is not None:
                self._reuse(session, prefix)
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
        self._check_quota(account)
        pages = count_pages(min(promised, session.capacity))
        rank = Rank(account.is_member, account.priority, -session.serial)
        self._book.resume(session.serial, rank, promised=pages)
        session.account = account
        self._sessions[session.serial] = self._parked.pop(session.serial)
        session.is_open, session.stays = True, False
        try:
            yield session
        finally:
            self._leave(session)

    def _leave(self, session: EngineSession) -> None:
        """Close a session, or park one that is to stay and whose text is whole."""
        is_whole = session.loss is None and session.kept == session.length
        if session.stays and is_whole:
            self._stop_session(session)
            self._book.park(session.serial)
            self._parked[session.serial] = session
        else:
            self._close_session(session)

    def is_parked(self, session: EngineSession) -> bool:
        """Whether a session that was parked has its pages still."""
        return session.serial in self._parked and session.loss is None

    def forget(self, session: EngineSession) -> None:
        """Free the pages of a parked session."""
        if self._parked.pop(session.serial, None) is not None:
            self._book.close(session.serial)
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
        """Let a session that computes nothing go on after ``tokens`` of its text, or fewer.

        Pages that other sessions may share are not written again, so it may go back further.
        """
        if tokens < session.published * PAGE_TOKENS:
            pages = tokens // PAGE_TOKENS
            self._book.cut(session.serial, pages)
            session.pages = tuple(session.table)
            session.published, tokens = pages, pages * PAGE_TOKENS
        # What comes now may be another text, or from another hoster.
        session.keys = session.keys[: session.published]
        session.rewind(tokens)
        session.reused = min(session.reused, tokens)

    def _reuse(self, session: EngineSession, prefix: Prefix) -> None:
        """Let a new session begin with the published pages of its prompt."""
        unit, text = self._reuse_unit, prefix.token_ids
        session.salt = b"%b%d:%d" % (prefix.salt, session.span.start, session.span.end)
        session.keys = compute_page_keys(session.salt, text[: len(text) // unit * unit])
        found = self._book.count_published(session.keys) * PAGE_TOKENS
        reused = min(found, prefix.limit, len(text) - 1) // unit * unit
        if reused <= 0:
            return
        session.published = reused // PAGE_TOKENS
        self._book.share(session.serial, session.keys[: session.published])
        session.pages = tuple(session.table)
        session.length = session.kept = session.reused = reused
        if session.span.start == 0:
            session.token_ids.extend(text[:reused])
        chunk = self.limits.prefill_chunk
        session.ends.extend([*range(chunk, reused, chunk), reused])

    @property
    def _reuse_unit(self) -> int:
        """The tokens that are reused are a multiple of it."""
        return math.lcm(PAGE_TOKENS, self.limits.prefill_chunk if self._deterministic else 1)

    def reuse_less(self, session: EngineSession, tokens: int) -> None:
        """Let a session, of which nothing is computed yet, begin with fewer tokens.

        Raises Refused(WRONG_POSITION) unless these are whole pages of those that it began with.
        """
        is_new = session.length == session.reused
        if not is_new or tokens > session.reused or tokens % PAGE_TOKENS:
            raise Refused(
                RefusalReason.WRONG_POSITION, f"position {tokens} does not follow {session.length}"
            )
        self._book.cut(session.serial, tokens // PAGE_TOKENS)
        session.pages = tuple(session.table)
        session.rewind(tokens)
        session.reused = tokens
        session.published = tokens // PAGE_TOKENS

    def _publish(self, session: EngineSession) -> None:
        """Offer the full pages of a session's prompt to later ones."""
        full = min(len(session.keys), session.kept // PAGE_TOKENS)
        if full > session.published:
            self._book.publish(session.serial, session.keys[:full])
            session.published = full

    def _open_session(
        self, span: LayerSpan, capacity: int, account: Account, *, promised: int | None
    ) -> EngineSession:
        serial = next(self._serials)
        rank = Rank(account.is_member, account.priority, -serial)
        if any(job.session.rank > rank for job in self._starved.values()):
            raise Refused(RefusalReason.BUSY, "sessions wait for pages of the cache")
        pages = count_pages(capacity if promised is None else min(promised, capacity))
        table = self._book.open(serial, rank, promised=pages)
        session = EngineSession(serial, span, capacity, account, table)
        self._sessions[serial] = session
        return session

    def _close_session(self, session: EngineSession) -> None:
        self._stop_session(session)
        self._book.close(session.serial)

    def _stop_session(self, session: EngineSession) -> None:
        # A step still on the thread writes into the pages before any later owner does.
        session.is_open = False
        if session.salt is not None and session.span.start == 0 and not self._deterministic:
            # A draft that is not verified is not offered.
            text = session.token_ids[: session.verified]
            session.keys = compute_page_keys(session.salt, text)
        self._publish(session)
        self._scheduler.discard(session.serial)
        self._cohorts.forget(session.serial)
        if self._hold is not None:
            # It may be the one that is awaited.
            self._wake.set()
        self._starved.pop(session.serial, None)
        self._stop_waiting(session)
        del self._sessions[session.serial]
        if self._starved:
            self._wake.set()

    def _check_quota(self, account: Account) -> None:
        """Raise Refused(BUSY) where another session would exceed what the account may use."""
        limits, others = self.limits, self._sessions.values()
        if len(others) >= limits.max_sessions:
            raise Refused(RefusalReason.BUSY, f"{limits.max_sessions} sessions are open")
        if account.client is not None:
            own = sum(other.account.client == account.client for other in others)
            if own >= limits.max_sessions_per_peer:
                raise Refused(RefusalReason.BUSY, "this peer has too many sessions open")
        if account.is_member:
            return
        sessions = limits.max_sessions - limits.max_sessions // limits.reserved_divisor
        if sum(not other.account.is_member for other in others) >= sessions:
            raise Refused(RefusalReason.BUSY, "the rest is kept for the nodes of the subnet")

    def submit(self, session: EngineSession, step: StepInput) -> asyncio.Future[StepOutput]:
        """Queue a session's next rows, one step after the other; ``follow`` may name more.

        Returns the last step's output. Raises Refused(CONTEXT_OVERFLOW) when the rows exceed the
        session's capacity, and Refused(BUSY) when its pages are lost.
        """
        if session.loss is not None:
            raise session.loss
        _check_room(session, step)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[StepOutput] = loop.create_future()
        if step.is_decode and not step.is_ahead:
            self._cohorts.note_step(session.serial, loop.time())
        self._queue(Job(session, step, future, time.perf_counter()))
        return future

    def _queue(self, job: Job) -> None:
        self._add(self._plan(job))
        if self._is_serving and self._running is None and not self._scheduler.has_challenge:
            # The thread is idle: it starts now, not when the event loop comes round to serve().
            self._start_batch()
        self._wake.set()

    def _add(self, job: Job) -> None:
        session = job.session
        account = session.account
        self._scheduler.add(
            Work(
                session.serial,
                session.span,
                job.step.rows,
                account.priority,
                job,
                account.client,
                is_window=job.step.window is not None,
                is_ahead=job.step.is_ahead,
            )
        )

    def _plan(self, job: Job) -> Job:
        """Return the job, or a step that computes lost text of its session again before it.

        A deterministic engine cuts the text where it was cut before, for the sake of equal bits.
        """
        wanted = job.restores or job
        session = wanted.session
        missing = session.length - session.kept
        if not missing:
            return wanted
        rows = min(missing, self.limits.prefill_chunk)
        if self._deterministic:
            rows = session.ends[bisect_right(session.ends, session.kept)] - session.kept
        token_ids = session.token_ids[session.kept : session.kept + rows]
        return replace(wanted, step=StepInput(rows, token_ids=token_ids), restores=wanted)

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
                await self.submit(session, self._make_warm_up_step())
                elapsed_s.append(time.perf_counter() - started)
                step(1)
        return max(1, int(len(layers) / min(elapsed_s)))

    def _make_warm_up_step(self) -> StepInput:
        if self.layers.start == 0:
            return StepInput(1, token_ids=(0,))
        zeros = bytes(self.config.hidden_size * DTYPE_SIZES["float32"])
        return StepInput(1, hidden=HiddenRows(1, "float32", zeros))

    async def run_tasks(self, tasks: Sequence[ChallengeTask]) -> tuple[NDArray[np.float32], ...]:
        """Run each challenged layer alone in float32 and return its last position.

        The vector has hidden_size values, or one logit for each of ``head_rows``. Goes before
        user traffic. Raises Refused(WRONG_RANGE) for a layer that is not served here.
        """
        for task in tasks:
            self._check_challenge(task)
        loop = asyncio.get_running_loop()
        jobs = [_ChallengeJob(task, loop.create_future()) for task in tasks]
        for job in jobs:
            self._scheduler.add_challenge(job)
        self._wake.set()
        return tuple([await job.future for job in jobs])

    def _check_challenge(self, task: ChallengeTask) -> None:
        is_head = task.layer == self.config.num_layers == self.layers.end
        if not is_head and task.layer not in self.layers:
            raise Refused(RefusalReason.WRONG_RANGE, f"block {task.layer} is not served here")
        if task.hidden.ndim != 2 or task.hidden.shape[1] != self.config.hidden_size:
            raise Refused(RefusalReason.WRONG_SHAPE, f"hidden has shape {task.hidden.shape}")
        if is_head != (task.head_rows is not None):
            raise Refused(RefusalReason.WRONG_SHAPE, "head rows belong to the head and only there")

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
        for session in self._sessions.values():
            self._publish(session)
        for job in following:
            if job.session.is_open:
                self._queue(job)
        # Sessions that go on at once get into the next batch together.
        await asyncio.sleep(0)
        self._running = None

    async def _run_challenge(self, challenge: _ChallengeJob) -> None:
        loop = asyncio.get_running_loop()
        self._running = loop.create_future()
        try:
            vector = await loop.run_in_executor(
                self._executor, _run_challenge, self._runner.weights, challenge.task
            )
        finally:
            self._running = None
        self.measures.challenges += 1
        _resolve(challenge.future, vector)

    def _start_batch(self) -> asyncio.Future[list[Job]] | None:
        """Hand the idle thread what waits; None if nothing does."""
        self._queue_starved()
        if self._is_held():
            return None
        batch = self._take_batch()
        if not batch:
            return None
        loop = asyncio.get_running_loop()
        self._running = loop.create_future()
        self._batch = self._running, frozenset(job.session.serial for job in batch)
        self._executor.submit(self._compute, batch, loop, self._running)
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
            batch = self._find_pages([work.payload for work in works])
            if batch:
                return batch
        return []

    def _find_pages(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of a batch for which there are pages; the others wait for pages."""
        if all(job.session.has_room(job.step.rows) for job in jobs):
            return [*jobs]
        preempted: set[int] = set()
        ready: set[int] = set()
        for job in sorted(jobs, key=lambda job: job.session.rank, reverse=True):
            session, wanted = job.session, job.restores or job
            pages = count_pages(session.length + wanted.step.rows)
            try:
                victims = () if session.serial in preempted else self._grow(session, pages)
            except NoPages:
                victims = (session.serial,)
            preempted.update(victims)
            if session.serial in preempted:
                self._starve(wanted)
            else:
                ready.add(session.serial)
        return [job for job in jobs if job.session.serial in ready]

    def _grow(self, session: EngineSession, pages: int) -> tuple[int, ...]:
        """Give a session so many pages; return the sessions that lost theirs. Raises NoPages."""
        victims = self._book.grow(session.serial, pages)
        session.pages = tuple(session.table)
        self._stop_waiting(session)
        for serial in victims:
            if serial in self._parked:
                self._parked[serial].loss = Refused(RefusalReason.BUSY, "its pages were needed")
            else:
                self._preempt(self._sessions[serial])
        return victims

    def _preempt(self, session: EngineSession) -> None:
        """Note that a session's pages went to another one; what it has queued waits for pages."""
        logger.info("session %d gave its pages to an older one", session.serial)
        session.pages, session.kept, session.published = (), 0, 0
        if not session.is_known:
            session.loss = Refused(RefusalReason.BUSY, "its pages went to an older session")
        waiting = self._starved.pop(session.serial, None)
        for job in (*self._scheduler.discard(session.serial), *([waiting] if waiting else [])):
            self._starve(job.restores or job)

    def _starve(self, job: Job) -> None:
        """Let a job wait for pages, or refuse it if its session cannot go on."""
        session = job.session
        if session.loss is not None:
            _fail(job.future, session.loss)
            return
        self._starved[session.serial] = job
        if session.serial not in self._page_timers:
            self._page_timers[session.serial] = asyncio.get_running_loop().call_later(
                self.limits.page_wait_s, self._give_up, session
            )

    def _give_up(self, session: EngineSession) -> None:
        # One whose step is queued again by now may have to wait anew, with a timer of its own.
        del self._page_timers[session.serial]
        job = self._starved.pop(session.serial, None)
        if job is not None:
            _fail(job.future, Refused(RefusalReason.BUSY, "no page of the cache became free"))

    def _stop_waiting(self, session: EngineSession) -> None:
        timer = self._page_timers.pop(session.serial, None)
        if timer is not None:
            timer.cancel()

    def _queue_starved(self) -> None:
        """Queue the jobs for which there may be pages now."""
        for job in [*self._starved.values()]:
            session = job.session
            pages = count_pages(session.length + job.step.rows)
            if self._book.can_grow(session.serial, pages):
                del self._starved[session.serial]
                self._add(self._plan(job))

    def _compute(
        self,
        batch: Sequence[Job],
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[list[Job]],
    ) -> None:
        """On the compute thread: run a batch, and continue it while nothing else is queued."""
        pending = self._batches.start(batch)
        put_off: list[Job] = []
        while True:
            ahead = None
            if pending is not None and not (put_off or self._scheduler.is_anything_waiting):
                ahead = self._batches.start_next(pending)
            ran = self._batches.read(pending)
            if ran is None:
                # A step ahead began with what this one had given, which is written again.
                ran, ahead = self._batches.run(batch), None
            self._measure(batch, ran)
            computed = zip(batch, ran, strict=True)
            outputs, following = zip(*(self._follow(*each) for each in computed), strict=True)
            if pending is not None and ahead is not None:
                pending = keep_promised(pending, ahead, outputs, following)
                going_on = [job for job in pending.jobs if job is not None]
                if going_on:
                    # What is under way goes on; the others need not wait for it.
                    left = [place for place, job in enumerate(pending.jobs) if job is None]
                    put_off += [job for i in left if (job := following[i]) is not None]
                    if left:
                        told = [(batch[i], outputs[i], following[i]) for i in left]
                        loop.call_soon_threadsafe(_answer, told)
                    batch = going_on
                    continue
            going_on = [job for job in following if job is not None and job.session.is_open]
            if len(going_on) < len(batch) or put_off or self._scheduler.is_anything_waiting:
                break
            if not _can_go_on(going_on):
                break
            batch = going_on
            pending = self._batches.start(batch)
        loop.call_soon_threadsafe(_hand_over, batch, outputs, following, put_off, done)

    def _measure(self, batch: Sequence[Job], ran: Sequence[StepOutput | Refused]) -> None:
        """Count what was computed, also on the compute thread."""
        for job, output in zip(batch, ran, strict=True):
            if isinstance(output, StepOutput):
                step = job.step
                self.measures.note_step(step.rows, output.elapsed_us, is_decode=step.is_decode)

    def _follow(
        self, job: Job, output: StepOutput | Refused
    ) -> tuple[StepOutput | Refused, Job | None]:
        """Count a computed step; return its output, and the job that follows it."""
        if isinstance(output, Refused):
            return output, None
        if job.restores is not None:
            job.session.kept += job.step.rows
            return output, self._plan(job)
        job.session.count(job.step)
        try:
            step = None if job.step.follow is None else job.step.follow(output)
            if step is None:
                return output, None
            _check_room(job.session, step)
        except Exception:
            logger.exception("what follows a step failed")
            return make_failure(), None
        return output, replace(job, step=step, handed_over=time.perf_counter())


def _open_runner(
    weights: ShardWeights,
    limits: EngineLimits,
    guard: ChallengeGuard,
    *,
    deterministic: bool,
    use_graphs: bool | None,
    hop_dtype: str | None,
) -> BatchRunner:
    """On the compute thread: make the cache, and capture the decode steps where they are wanted."""
    if weights.device.type == "cuda" and weights.device.index is not None:
        # Kernels and events of this thread belong to the card that holds the weights.
        torch.cuda.set_device(weights.device)
    wants_graphs = weights.device.type == "cuda" if use_graphs is None else use_graphs
    runner = ShardRunner(
        weights,
        cache_tokens=limits.cache_tokens,
        deterministic=deterministic,
        has_scratch_page=wants_graphs,
    )
    graphs = None
    if wants_graphs:
        graphs = make_step_graphs(
            runner, max_rows=limits.max_batch_rows, deterministic=deterministic
        )
    return BatchRunner(
        runner,
        guard,
        graphs,
        deterministic=deterministic,
        hop_dtype=None if hop_dtype is None else DTYPES[hop_dtype],
    )


def _fit_chunk(limits: EngineLimits, max_rows: int) -> EngineLimits:
    """Return the limits with chunks of a prompt that fit into one frame to the next range.

    A shorter chunk than asked is a multiple of a page, where it can be: a deterministic engine
    reuses multiples of both.
    """
    if limits.prefill_chunk <= max_rows:
        return limits
    return replace(limits, prefill_chunk=max_rows // PAGE_TOKENS * PAGE_TOKENS or max_rows)


def _check_room(session: EngineSession, step: StepInput) -> None:
    if session.length + step.rows > session.capacity:
        raise Refused(RefusalReason.CONTEXT_OVERFLOW, "more tokens than the session may have")


def _open_book(limits: EngineLimits, *, max_context: int) -> PageBook:
    pages = count_pages(limits.cache_tokens)
    strangers = pages - pages // limits.reserved_divisor
    # One stranger may always fill a context, however small the cache is.
    return PageBook(pages, stranger_pages=max(strangers, count_pages(max_context)))


def _can_go_on(jobs: Sequence[Job]) -> bool:
    """Whether jobs may run as the next batch: there are pages, and prompts are not mixed."""
    is_batch = len(jobs) == 1 or all(job.step.is_decode for job in jobs)
    return is_batch and all(job.session.has_room(job.step.rows) for job in jobs)


def _hand_over(
    batch: Sequence[Job],
    outputs: Sequence[StepOutput | Refused],
    following: Sequence[Job | None],
    put_off: Sequence[Job],
    done: asyncio.Future[list[Job]],
) -> None:
    """On the event loop: answer the sessions that wait, pass on the steps that follow."""
    _answer([*zip(batch, outputs, following, strict=True)])
    _resolve(done, [*put_off, *(job for job in following if job is not None)])


def _answer(computed: Sequence[tuple[Job, StepOutput | Refused, Job | None]]) -> None:
    """On the event loop: tell the sessions whose last step was computed."""
    for job, output, next_job in computed:
        if isinstance(output, Refused):
            _fail(job.future, output)
        elif next_job is None:
            _resolve(job.future, output)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    """Answer, unless the one who asked has gone."""
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[StepOutput], refused: Refused) -> None:
    """Refuse, unless the one who asked has gone."""
    if not future.done():
        future.set_exception(refused)


def _prepare_thread(threads: int) -> None:
    torch.set_num_threads(threads)
    use_exact_float32()


@torch.inference_mode()
def _run_challenge(weights: ShardWeights, task: ChallengeTask) -> NDArray[np.float32]:
    hidden = torch.from_numpy(np.array(task.hidden, dtype=np.float32))
    if task.head_rows is not None:
        rows = torch.from_numpy(np.array(task.head_rows, dtype=np.int64))
        vector = run_challenge_head(weights, hidden, rows)
    else:
        token_ids = None
        if task.token_ids is not None:
            token_ids = torch.from_numpy(np.array(task.token_ids, dtype=np.int64))
        vector = run_challenge_layer(weights, task.layer, hidden, token_ids=token_ids)
    found: NDArray[np.float32] = vector.cpu().numpy()
    return found
