"""``mesh status``: what this machine's nodes do, owe, earn, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.console import emit
from subnet.cli.options import DataDir

if TYPE_CHECKING:
    from subnet.operator.status import NodeStatus

MAX_AGE_S = 120.0


def status(
    data_dir: DataDir = None,
    max_age: Annotated[
        float, typer.Option(min=1, help="Seconds after which a silent node counts as dead.")
    ] = MAX_AGE_S,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per node.")] = False,
) -> None:
    """Show this machine's nodes; exit 1 if one is stopped, silent or its chain's head stands."""
    import time

    now_s = time.time()
    statuses = read_all(data_dir)
    if as_json:
        for node in statuses:
            emit(node.model_dump_json())
    else:
        _show(statuses, now_s=now_s)
    for node in statuses:
        node.check(now_s=now_s, max_age_s=max_age)


def read_all(data_dir: Path | None) -> tuple[NodeStatus, ...]:
    """Return the statuses of this machine's nodes. Raises ConfigError if there is none."""
    from platformdirs import user_data_path

    from subnet.errors import ConfigError
    from subnet.operator.status import read_statuses

    directory = data_dir or user_data_path("mesh")
    statuses = read_statuses(directory)
    if not statuses:
        raise ConfigError(
            f"no node has run with its data in {directory}",
            "start one with mesh-test, or give --data-dir",
        )
    return statuses


def _show(statuses: tuple[NodeStatus, ...], *, now_s: float) -> None:
    import sys

    from rich.console import Console

    from subnet.cli.status_screen import WIDTH, render_screen

    # Elsewhere than on a terminal rich writes no colour; NO_COLOR is its own to obey.
    console = Console(file=sys.stdout, width=WIDTH, highlight=False)
    screen = render_screen(statuses, now_s=now_s)
    if console.is_terminal:
        console.print(screen)
        return
    with console.capture() as capture:
        console.print(screen)
    emit("\n".join(line.rstrip() for line in capture.get().splitlines()))
