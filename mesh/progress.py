"""How far long work is: downloads, hashing, loading, calibration, warm-up, catching up.

What takes long says so with :func:`track`. Who is told is chosen once a process with
:func:`report_to`, as the handlers of logs are: the work may run in any thread, far below the
command that started it. Without a choice it is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

STEP_S = 0.1
"""Steps in quicker succession are added up: a reporter may be slower than the work."""
LINE_S = 5.0
"""Seconds between two lines about the same work."""
_UNITS = ("B", "kB", "MB", "GB", "TB")

Step = Callable[[int], None]
"""Says that so many more units are done."""

BYTES = "bytes"
"""The unit whose amounts are shown as MB or GB; others are the plural of what is counted."""

logger = logging.getLogger(__name__)


class Stage(StrEnum):
    """Where a work is in its life; ``STOPPED`` is the end of one that did not get done."""

    BEGUN = "begun"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class Work:
    """One piece of long work. ``total`` None: how much there is to do is not known.

    ``fields`` say which one it is, such as the blocks that are loaded.
    """

    name: str
    unit: str
    total: int | None
    fields: Mapping[str, str]
    done: int = 0
    stage: Stage = Stage.BEGUN
    started_s: float = field(default_factory=time.monotonic)

    @property
    def title(self) -> str:
        """The name with the fields, for people."""
        return " ".join([self.name, *self.fields.values()])

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_s

    def describe(self) -> str:
        """Return how much is done of how much, such as ``120 of 270 MB``."""
        if self.unit == BYTES:
            return describe_bytes(self.done, self.total)
        done = str(self.done) if self.total is None else f"{self.done} of {self.total}"
        return f"{done} {self.unit}"


class Reporter(Protocol):
    """Told of every work; from any thread, of one work from one thread at a time."""

    def begin(self, work: Work) -> None:
        """It starts now."""
        ...

    def step(self, work: Work) -> None:
        """More of it is done; at most once in STEP_S."""
        ...

    def end(self, work: Work) -> None:
        """It is done, or it has stopped: ``stage`` says which."""
        ...


class LineReporter:
    """Gives ``tell`` a first and a last line of each work, and at most one in LINE_S between."""

    def __init__(
        self, tell: Callable[[Work], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._told_s: dict[Work, float] = {}

    def begin(self, work: Work) -> None:
        self._told_s[work] = self._clock()
        self._tell(work)

    def step(self, work: Work) -> None:
        now_s = self._clock()
        if now_s - self._told_s[work] >= LINE_S:
            self._told_s[work] = now_s
            self._tell(work)

    def end(self, work: Work) -> None:
        del self._told_s[work]
        self._tell(work)


def log_work(work: Work) -> None:
    """Log a work: its name is the event."""
    fields: dict[str, object] = {**work.fields, "stage": str(work.stage)}
    if work.stage is not Stage.BEGUN:
        fields |= {"amount": work.describe(), "seconds": round(work.seconds, 1)}
    elif work.total is not None:
        fields["amount"] = describe_amount(work.total, work.unit)
    logger.info(work.name, extra=fields)


_reporter: Reporter = LineReporter(log_work)


def report_to(reporter: Reporter) -> Reporter:
    """Tell ``reporter`` of all work that starts from now on; return who was told before."""
    global _reporter
    before, _reporter = _reporter, reporter
    return before


@contextmanager
def track(name: str, *, total: int | None, unit: str, **fields: str) -> Iterator[Step]:
    """Report the block's work, and give it what it calls after each part, from one thread.

    ``total`` and the steps count ``unit``, the plural of a thing, or BYTES.
    """
    reporter, work = _reporter, Work(name, unit, total, fields)
    reporter.begin(work)
    reported_s = work.started_s

    def step(count: int) -> None:
        nonlocal reported_s
        work.done += count
        now_s = time.monotonic()
        if now_s - reported_s >= STEP_S:
            reported_s, work.stage = now_s, Stage.RUNNING
            reporter.step(work)

    work_ended = Stage.STOPPED
    try:
        yield step
        work_ended = Stage.DONE
    finally:
        work.stage = work_ended
        reporter.end(work)


def ignore_step(count: int) -> None:
    """Report nothing: for work that is short, or that others report."""


def describe_amount(amount: int, unit: str) -> str:
    """Return an amount with its unit, such as ``270 MB`` or ``12 blocks``."""
    return describe_bytes(amount, None) if unit == BYTES else f"{amount} {unit}"


def describe_bytes(done: int, total: int | None) -> str:
    """Return bytes in the unit that suits the larger number, such as ``0.1 of 1.4 GB``."""
    size, power = max(done, total or 0), 0
    while size >= 1000 and power + 1 < len(_UNITS):
        size, power = size // 1000, power + 1
    digits = 1 if power and size < 100 else 0
    amounts = [done] if total is None else [done, total]
    return " of ".join(f"{amount / 1000**power:.{digits}f}" for amount in amounts) + (
        f" {_UNITS[power]}"
    )
