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
    """Show the nodes of this machine; exit 1 if one of them has been silent for too long."""
    import time

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
    for node in statuses:
        age = time.time() - node.written_at
        if as_json:
            emit(node.model_dump_json())
        else:
            blocks = "" if node.blocks is None else f" blocks {node.blocks[0]}:{node.blocks[1]}"
            emit(
                f"node {node.subnet_node_id} of subnet {node.subnet_id}: {node.role}{blocks}, "
                f"head {node.head}, epoch {node.epoch}, {node.phase}, {node.taking_part}, "
                f"{age:.0f} s ago"
            )
        if age > max_age:
            raise ConfigError(
                f"node {node.subnet_node_id} has been silent for {age:.0f} s",
                "look at its log, then start it again",
            )
