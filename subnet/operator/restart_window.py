"""Waits until stopping this machine's nodes costs nothing, as their status files say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from subnet.errors import ConfigError
from subnet.operator.status import NodeStatus, read_statuses

LOOK_EVERY_S = 1.0


async def wait_for_window(
    data_dir: Path,
    node_id: int | None,
    *,
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> None:
    """Return once no running node here, or none but ``node_id``, would lose by being stopped.

    ``say`` gets each reason to wait once. Raises ConfigError where no such node has run.
    """
    said = None
    while True:
        why = find_reason_to_stay(data_dir, node_id, now_s=clock())
        if why is None:
            return
        if why != said:
            said = why
            say(why)
        await asyncio.sleep(LOOK_EVERY_S)


def find_reason_to_stay(data_dir: Path, node_id: int | None, *, now_s: float) -> str | None:
    """Return why a node should go on running now; None if none should. Raises ConfigError."""
    nodes = [
        status
        for status in read_statuses(data_dir)
        if status.subnet_node_id is not None and node_id in (None, status.subnet_node_id)
    ]
    if not nodes:
        which = "no node" if node_id is None else f"no node {node_id}"
        raise ConfigError(f"{which} has run with its data in {data_dir}", "give --data-dir")
    return next((why for node in nodes if (why := _explain(node, now_s=now_s))), None)


def _explain(node: NodeStatus, *, now_s: float) -> str | None:
    if node.is_silent(now_s=now_s) or node.taking_part == "unpaid":
        return None
    if node.head is None:
        return f"{node.name} has just started, and does not know its duties yet"
    return None if node.stay is None else f"{node.name}: {node.stay}"
