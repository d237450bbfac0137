"""``mesh wait-for-restart-window``: return when stopping the node costs nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from subnet.cli.console import EXIT_TIMEOUT, say
from subnet.cli.options import DataDir

DEFAULT_TIMEOUT_S = 600.0


def wait_for_restart_window(
    node: Annotated[
        int | None,
        typer.Argument(metavar="NODE", min=1, help="One node; all of this machine if absent."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait; exit code 3 when they are over.")
    ] = DEFAULT_TIMEOUT_S,
    data_dir: DataDir = None,
) -> None:
    """Wait until the epoch's duties are done, so that a restart loses neither pay nor reputation.

    Exit code 0: stop it now, or it does not run. 3: the time was over first.
    """
    import asyncio
    import time

    from platformdirs import user_data_path

    from subnet.operator.restart_window import wait_for_window

    directory = data_dir or user_data_path("mesh")

    async def work() -> None:
        async with asyncio.timeout(timeout):
            await wait_for_window(directory, node, say=say, clock=time.time)

    try:
        asyncio.run(work())
    except TimeoutError:
        say(f"no window for a restart came in {timeout:g} s; stopping now would cost something")
        raise SystemExit(EXIT_TIMEOUT) from None
