"""The open and parked sessions of an engine, and which pages of the cache they have or wait for.

mesh/inference/engine.py says when each of these is called, and what happens when pages run out;
mesh/inference/refills.py says what parked sessions are for.
Everything here belongs to the event loop, and pages change owners only while the thread is idle.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

from mesh.inference.accounts import Account
from mesh.inference.engine_limits import EngineLimits, Prefix
from mesh.inference.pages import NoPages, PageBook, Rank, compute_page_keys
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.scheduler import QueuedStep, Scheduler
from mesh.inference.steps import EngineSession, Job, fail
from mesh.model.capacity import PAGE_TOKENS, count_pages
from mesh.model.config import LayerSpan

logger = logging.getLogger(__name__)


class SessionTable:
    """Who is served, or may go on. ``scheduler`` holds what the sessions have queued."""

    def __init__(
        self,
        limits: EngineLimits,
        book: PageBook,
        scheduler: Scheduler[Job, Any],
        *,
        deterministic: bool,
    ) -> None:
        self._limits = limits
        self._book = book
        self._scheduler = scheduler
        self._deterministic = deterministic
        self._serials = itertools.count()
        self._sessions: dict[int, EngineSession] = {}
        self._parked: dict[int, EngineSession] = {}
        self._starved: dict[int, Job] = {}
        self._page_timers: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def accounts(self) -> Sequence[Account]:
        """The accounts of the sessions that are open."""
        return [session.account for session in self._sessions.values()]

    @property
    def is_any_starved(self) -> bool:
        """Whether a session waits for pages."""
        return bool(self._starved)

    def check_capacity(self, capacity: int, *, max_context: int) -> None:
        """Raise Refused(CONTEXT_OVERFLOW) for more tokens than the context or the cache holds."""
        if not 0 < capacity <= max_context:
            raise Refused(
                RefusalReason.CONTEXT_OVERFLOW,
                f"{capacity} tokens do not fit into a context of {max_context}",
            )
        room = self._book.pages * PAGE_TOKENS
        if capacity > room:
            raise Refused(
                RefusalReason.CONTEXT_OVERFLOW,
                f"{capacity} tokens do not fit into a cache of {room}",
            )

    def open(
        self, span: LayerSpan, capacity: int, account: Account, *, promised: int | None
    ) -> EngineSession:
        """Open a session that ``promised`` tokens are computed of soon; None is all.

        Raises Refused(BUSY).
        """
        serial = next(self._serials)
        rank = Rank(account.is_member, account.priority, -serial)
        if any(job.session.rank > rank for job in self._starved.values()):
            raise Refused(RefusalReason.BUSY, "sessions wait for pages of the cache")
        pages = count_pages(capacity if promised is None else min(promised, capacity))
        table = self._book.open(serial, rank, promised=pages)
        session = EngineSession(serial, span, capacity, account, table)
        self._sessions[serial] = session
        return session

    def resume(self, session: EngineSession, account: Account, *, promised: int) -> None:
        """Let a parked session go on with its pages, on ``account``.

        Raises Refused(BUSY): it is parked still.
        """
        pages = count_pages(min(promised, session.capacity))
        rank = Rank(account.is_member, account.priority, -session.serial)
        self._book.resume(session.serial, rank, promised=pages)
        session.account = account
        self._sessions[session.serial] = self._parked.pop(session.serial)
        session.is_open, session.stays = True, False

    def leave(self, session: EngineSession) -> None:
        """Close a session, or park one that is to stay and whose text is whole."""
        is_whole = session.loss is None and session.kept == session.length
        if session.stays and is_whole:
            self._stop(session)
            self._book.park(session.serial)
            self._parked[session.serial] = session
        else:
            self._close(session)

    def _close(self, session: EngineSession) -> None:
        self._stop(session)
        self._book.close(session.serial)

    def _stop(self, session: EngineSession) -> None:
        """End a session's turn; its pages stay in the book."""
        # A step still on the thread writes into the pages before any later owner does.
        session.is_open = False
        if session.salt is not None and session.span.start == 0 and not self._deterministic:
            # A draft that is not verified is not offered.
            text = session.token_ids[: session.verified]
            session.keys = compute_page_keys(session.salt, text)
        self._publish(session)
        self._scheduler.discard(session.serial)
        self._starved.pop(session.serial, None)
        self._stop_waiting(session)
        del self._sessions[session.serial]

    def is_parked(self, session: EngineSession) -> bool:
        """Whether a session that was parked has its pages still."""
        return session.serial in self._parked and session.loss is None

    def forget(self, session: EngineSession) -> bool:
        """Free the pages of a parked session; return whether it was one."""
        if self._parked.pop(session.serial, None) is None:
            return False
        self._book.close(session.serial)
        return True

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

    def reuse(self, session: EngineSession, prefix: Prefix) -> None:
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
        chunk = self._limits.prefill_chunk
        session.ends.extend([*range(chunk, reused, chunk), reused])

    @property
    def _reuse_unit(self) -> int:
        """The tokens that are reused are a multiple of it."""
        return math.lcm(PAGE_TOKENS, self._limits.prefill_chunk if self._deterministic else 1)

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

    def publish_all(self) -> None:
        """Offer what was computed of the sessions' prompts to later ones."""
        for session in self._sessions.values():
            self._publish(session)

    def _publish(self, session: EngineSession) -> None:
        """Offer the full pages of a session's prompt to later ones."""
        full = min(len(session.keys), session.kept // PAGE_TOKENS)
        if full > session.published:
            self._book.publish(session.serial, session.keys[:full])
            session.published = full

    def queue(self, job: Job) -> None:
        """Let a session's step wait for its turn on the thread."""
        session = job.session
        account = session.account
        self._scheduler.add(
            QueuedStep(
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

    def find_pages(self, jobs: Sequence[Job]) -> list[Job]:
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
            fail(job.future, session.loss)
            return
        self._starved[session.serial] = job
        if session.serial not in self._page_timers:
            self._page_timers[session.serial] = asyncio.get_running_loop().call_later(
                self._limits.page_wait_s, self._give_up, session
            )

    def _give_up(self, session: EngineSession) -> None:
        # One whose step is queued again by now may have to wait anew, with a timer of its own.
        del self._page_timers[session.serial]
        job = self._starved.pop(session.serial, None)
        if job is not None:
            fail(job.future, Refused(RefusalReason.BUSY, "no page of the cache became free"))

    def _stop_waiting(self, session: EngineSession) -> None:
        timer = self._page_timers.pop(session.serial, None)
        if timer is not None:
            timer.cancel()

    def take_ready(self) -> list[Job]:
        """Return the jobs that waited and for which there may be pages now."""
        ready = []
        for job in [*self._starved.values()]:
            session = job.session
            pages = count_pages(session.length + job.step.rows)
            if self._book.can_grow(session.serial, pages):
                ready.append(self._starved.pop(session.serial))
        return ready
