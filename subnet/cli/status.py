"""``mesh status``: is the node on this machine alive, and in which phase?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import emit

MAX_AGE_S = 120.0


def status(
    data_dir: Annotated[
        Path | None,
        typer.Option(envvar="MESH_HOME", help="Where the journals live, as given to mesh-test."),
    ] = None,
    max_age: Annotated[
        float, typer.Option(min=1, help="Seconds after which a silent node counts as dead.")
    ] = MAX_AGE_S,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per node.")] = False,
) -> None:
    """Show this machine's nodes; exit 1 if one is silent or its chain's head stands still."""
    import time

    from platformdirs import user_data_path

    from subnet.errors import ConfigError
    from subnet.operator.status import read_statuses

    directory, now_s = data_dir or user_data_path("mesh"), time.time()
    statuses = read_statuses(directory)
    if not statuses:
        raise ConfigError(
            f"no node has run with its data in {directory}",
            "start one with mesh-test, or give --data-dir",
        )
    for node in statuses:
        emit(node.model_dump_json() if as_json else node.describe(now_s=now_s))
    for node in statuses:
        node.check(now_s=now_s, max_age_s=max_age)
