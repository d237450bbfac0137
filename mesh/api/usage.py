"""What the keys use: counted in memory, written once a second by a thread, compared with budgets.

Requests never wait for the disk. What could not be written stays in memory and is tried again, so a
full disk costs no answer; a process that is killed loses the counts of its last second.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from mesh.api.auth import KeyRing
from mesh.api.errors import UsageFileUnusable
from mesh.api.key_terms import write_moment
from mesh.api.problems import Problem, quote_name
from mesh.api.usage_file import (
    KEPT_DAYS,
    NOTHING_USED,
    SECONDS_PER_DAY,
    KeyUsage,
    Place,
    UsageFile,
    compute_day,
)

WRITE_PERIOD_S = 1.0

log = structlog.get_logger(__name__)


class UsageBook:
    """Counts of one file's keys. Belongs to the event loop; without a file it is memory only."""

    def __init__(self, file: UsageFile | None = None) -> None:
        self._file = file
        self._pending: dict[Place, KeyUsage] = {}
        self._writing: dict[Place, KeyUsage] = {}
        self._saved: dict[str, KeyUsage] = {}
        self._saved_day = 0
        self._is_failing = False
        self._at_work: asyncio.Future[tuple[int, dict[str, KeyUsage]]] | None = None

    def count(self, name: str, used: KeyUsage, *, unix_s: float) -> None:
        """Add to what a key used today."""
        place = (name, compute_day(unix_s))
        self._pending[place] = self._pending.get(place, NOTHING_USED).plus(used)

    def get_today(self, name: str, *, unix_s: float) -> KeyUsage:
        """Return what a key has used today, written or not."""
        place = (name, compute_day(unix_s))
        used = NOTHING_USED
        if self._saved_day == place[1]:
            used = self._saved.get(name, NOTHING_USED)
        for counted in (self._pending, self._writing):
            used = used.plus(counted.get(place, NOTHING_USED))
        return used

    async def write(self, *, unix_s: float) -> None:
        """Write what is pending, and read what other gateways wrote. Never raises for the disk.

        Raises UsageFileUnusable for a file that holds something else, or is open to others.
        """
        day = compute_day(unix_s)
        if self._at_work is None:
            if self._file is None or (not self._pending and self._saved_day == day):
                return
            self._writing, self._pending = self._pending, {}
            add = partial(self._file.add, self._writing, today=day)
            self._at_work = asyncio.get_running_loop().run_in_executor(None, add)
        try:
            # A wait that is cancelled leaves the thread at work: the next one takes up its result.
            self._saved_day, self._saved = await asyncio.shield(self._at_work)
        except (OSError, sqlite3.Error) as error:
            self._take_back(oldest=day - KEPT_DAYS)
            self._complain(str(error))
        except UsageFileUnusable:
            self._take_back(oldest=day - KEPT_DAYS)
            raise
        else:
            self._at_work, self._writing, self._is_failing = None, {}, False

    async def keep_writing(self, clock: Callable[[], float]) -> None:
        """Write once in WRITE_PERIOD_S, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_PERIOD_S)
            try:
                await self.write(unix_s=clock())
            except UsageFileUnusable as error:
                # It was fine when the gateway started: the answers go on.
                self._complain(str(error))

    def _complain(self, reason: str) -> None:
        """Say once that writing fails, until it works again."""
        if not self._is_failing:
            log.warning("usage cannot be written; it is kept and tried again", reason=reason)
        self._is_failing = True

    def _take_back(self, *, oldest: int) -> None:
        """Let what was not written be pending again."""
        for place, used in self._writing.items():
            if place[1] > oldest:
                self._pending[place] = self._pending.get(place, NOTHING_USED).plus(used)
        self._at_work, self._writing = None, {}


@asynccontextmanager
async def open_usage_book(
    path: Path, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[UsageBook]:
    """Open the usage of a gateway's keys; what is pending at the end is written.

    Raises UsageFileUnusable for a file that holds something else, or is open to others.
    """
    file = UsageFile(path)
    book = UsageBook(file)
    try:
        # Budgets hold from the first request on.
        await book.write(unix_s=clock())
        try:
            yield book
        finally:
            # The first may only take up one whose wait was cancelled.
            await book.write(unix_s=clock())
            await book.write(unix_s=clock())
    finally:
        file.close()


@dataclass(slots=True)
class Allowances:
    """What each caller may ask for, and what it has used. Without a ring nothing is limited."""

    ring: KeyRing | None = None
    book: UsageBook = field(default_factory=UsageBook)
    clock: Callable[[], float] = time.time

    def check(self, caller: str, *, models: Iterable[str], prompt_tokens: int) -> None:
        """Raise Problem 403 for a model that the key may not use, or 429 beyond its budget."""
        if self.ring is None:
            return
        terms = self.ring.get_terms(caller)
        for model_id in models:
            if not terms.allows_model(model_id):
                raise Problem(
                    403,
                    f"This API key may not use the model '{quote_name(model_id)}'.",
                    kind="permission_error",
                    param="model",
                    code="model_not_allowed",
                )
        if terms.tokens_per_day is not None:
            self._check_budget(caller, terms.tokens_per_day, prompt_tokens)

    def charge(self, caller: str, *, models: Iterable[str], prompt_tokens: int) -> None:
        """Check as :meth:`check` does, then count a request and its prompt."""
        self.check(caller, models=models, prompt_tokens=prompt_tokens)
        self._count(caller, KeyUsage(1, prompt_tokens, 0))

    def count_answer(self, caller: str, tokens: int) -> None:
        """Count tokens of an answer as they come, so that other requests of the key see them."""
        self._count(caller, KeyUsage(0, 0, tokens))

    def allows_model(self, caller: str, model_id: str) -> bool:
        """Whether a caller may ask for a model."""
        return self.ring is None or self.ring.get_terms(caller).allows_model(model_id)

    def _count(self, caller: str, used: KeyUsage) -> None:
        if self.ring is not None:
            self.book.count(caller, used, unix_s=self.clock())

    def _check_budget(self, caller: str, budget: int, prompt_tokens: int) -> None:
        now_s = self.clock()
        left = budget - self.book.get_today(caller, unix_s=now_s).tokens
        # A prompt that takes all that is left leaves no token for an answer.
        if left > prompt_tokens:
            return
        free_s = (compute_day(now_s) + 1) * SECONDS_PER_DAY
        told = f"{max(0, left)} of this key's {budget} tokens a day are left"
        raise Problem(
            429,
            f"{told} and the prompt has {prompt_tokens}; "
            f"the budget is full again at {write_moment(free_s)}.",
            kind="insufficient_quota",
            code="insufficient_quota",
            retry_after_s=math.ceil(free_s - now_s),
        )
