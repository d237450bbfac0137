"""The status of the node in this process, live on its terminal, below the log lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule

from subnet.cli.status_screen import render_screen
from subnet.errors import ConfigError
from subnet.operator.status import STATUS_FILE, read_status

if TYPE_CHECKING:
    from subnet.cli.progress import Bars

REFRESH_S = 1.0


class PlainCursorConsole(Console):
    """Leaves the cursor alone: a process that has to end at once could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


@asynccontextmanager
async def show_summary(data_dir: Path, bars: Bars | None = None) -> AsyncIterator[None]:
    """Show what the status file in ``data_dir`` says until the block ends, below any ``bars``.

    Log lines that are written to ``sys.stderr`` meanwhile appear above it. What an earlier process
    left in the file is not shown.
    """
    console = PlainCursorConsole(stderr=True, highlight=False)
    started_s = time.time()

    async def refresh(live: Live) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            parts = [] if bars is None else bars.render()
            live.update(Group(*parts, _render(data_dir, started_s=started_s)), refresh=True)

    with (
        nullcontext() if bars is None else bars.embed(),
        Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live,
    ):
        async with asyncio.TaskGroup() as tasks:
            refreshing = tasks.create_task(refresh(live))
            yield
            refreshing.cancel()


def _render(data_dir: Path, *, started_s: float) -> RenderableType:
    try:
        status = read_status(data_dir / STATUS_FILE)
    except ConfigError:
        return Group()
    if status.written_at < started_s:
        return Group()
    return Group(Rule(style="dim"), render_screen((status,), now_s=time.time()))
