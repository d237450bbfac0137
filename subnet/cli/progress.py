"""How far long work is: bars on a terminal, lines elsewhere.

A bar is drawn on stderr while its work lasts, and log lines appear above it. There are none where
stderr is no terminal or a dumb one, with ``--json``, and where logs are JSON: then a command says
lines, and a node logs them. rich is imported with the first bar, so that ``--help`` is instant.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.progress import (
    LineReporter,
    Reporter,
    Stage,
    Work,
    describe_amount,
    log_work,
    report_to,
)
from subnet.cli.console import NOTICE_AFTER_S, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

BARS_PER_SECOND = 4
_DUMB = ("dumb", "unknown")


def can_draw() -> bool:
    """Whether stderr is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in _DUMB


@contextmanager
def show_progress(*, with_bars: bool) -> Iterator[None]:
    """Show all work of a command until the block ends."""
    before = report_to(Bars(_QuickNotes()) if with_bars else LineReporter(say_work))
    try:
        yield
    finally:
        report_to(before)


def log_progress(*, with_bars: bool) -> Bars | None:
    """Log all work from now on, and draw bars as well if asked for; return these."""
    lines = LineReporter(log_work)
    bars = Bars(_EndsOnly(lines)) if with_bars else None
    report_to(bars or lines)
    return bars


def say_work(work: Work) -> None:
    """Say one line about a work."""
    say(f"{work.title}: {_describe(work)}")


def _describe(work: Work) -> str:
    match work.stage:
        case Stage.BEGUN:
            return "begins" if work.total is None else describe_amount(work.total, work.unit)
        case Stage.RUNNING:
            return f"{work.describe()}, {work.seconds:.0f} s"
        case Stage.DONE:
            return f"done, {describe_amount(work.done, work.unit)} in {work.seconds:.1f} s"
        case Stage.STOPPED:
            return f"stopped at {work.describe()} after {work.seconds:.1f} s"


class _EndsOnly:
    """Passes on that a work begins and ends: the bar shows what is between."""

    def __init__(self, lines: Reporter) -> None:
        self.begin, self.end = lines.begin, lines.end

    def step(self, work: Work) -> None:
        pass


class _QuickNotes:
    """Leaves one line of a work that was long enough for people to wonder."""

    def begin(self, work: Work) -> None:
        pass

    def step(self, work: Work) -> None:
        pass

    def end(self, work: Work) -> None:
        if work.seconds >= NOTICE_AFTER_S:
            say_work(work)


class Bars:
    """Draws a bar for each work that is under way, and tells ``lines`` of it too.

    ``embed`` hands the bars to another display on the same terminal: only one can be live.
    """

    def __init__(self, lines: Reporter) -> None:
        self._lines = lines
        self._busy = threading.Lock()
        self._tasks: dict[Work, TaskID] = {}
        self._made: Progress | None = None
        self._is_embedded = False

    def begin(self, work: Work) -> None:
        self._lines.begin(work)
        with self._busy:
            progress = self._made = self._made or _make_progress()
            if not self._tasks and not self._is_embedded:
                progress.start()
            self._tasks[work] = progress.add_task(
                work.title, total=work.total, amount=work.describe()
            )

    def step(self, work: Work) -> None:
        self._lines.step(work)
        with self._busy:
            if self._made is not None:
                self._made.update(self._tasks[work], completed=work.done, amount=work.describe())

    def end(self, work: Work) -> None:
        with self._busy:
            if self._made is not None:
                self._made.remove_task(self._tasks.pop(work))
                if not self._tasks and not self._is_embedded:
                    self._made.stop()
                    # One that has been live keeps its console's streams.
                    self._made = None
        self._lines.end(work)

    @contextmanager
    def embed(self) -> Iterator[None]:
        """Draw nothing while the block runs: who runs it shows what ``render`` returns."""
        with self._busy:
            self._is_embedded = True
        try:
            yield
        finally:
            with self._busy:
                self._is_embedded = False

    def render(self) -> list[RenderableType]:
        """Return the bars of what is under way, as one part of another display."""
        with self._busy:
            return [self._made.get_renderable()] if self._made is not None and self._tasks else []


def _make_progress() -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from subnet.cli.live_summary import PlainCursorConsole

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        console=PlainCursorConsole(stderr=True, highlight=False),
        refresh_per_second=BARS_PER_SECOND,
        transient=True,
        redirect_stdout=False,
    )
