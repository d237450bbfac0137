"""``mesh top``: the screen of ``mesh status``, live."""

from __future__ import annotations

from typing import Annotated

import typer

from subnet.cli.options import DataDir

REFRESH_S = 1.0


def top(
    data_dir: DataDir = None,
    every: Annotated[
        float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")
    ] = REFRESH_S,
) -> None:
    """Show this machine's nodes live, until Ctrl-C. It only reads their status files."""
    import sys
    import time

    from rich.console import Console
    from rich.live import Live

    from subnet.cli.status import read_all
    from subnet.cli.status_screen import WIDTH, render_screen
    from subnet.errors import UsageError

    if not sys.stdout.isatty():
        raise UsageError(
            "`mesh top` needs a terminal", "use `mesh status`, or `mesh status --json`"
        )
    console = Console(file=sys.stdout, width=WIDTH, highlight=False)
    with Live(
        render_screen(read_all(data_dir), now_s=time.time()),
        console=console,
        auto_refresh=False,
        screen=True,
    ) as live:
        while True:
            live.update(render_screen(read_all(data_dir), now_s=time.time()), refresh=True)
            time.sleep(every)
