"""The monitor of a node: opened with it, and closed with it. Its failure costs the node nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from subnet.monitor.collector import NodeMonitor, NodeSources
from subnet.monitor.history import FILE, open_history
from subnet.monitor.serving import serve_monitor
from subnet.operator.monitor_options import MonitorOptions
from subnet.thread_runner import open_thread_runner

logger = structlog.get_logger(__name__)


@asynccontextmanager
async def open_node_monitor(
    options: MonitorOptions, sources: NodeSources
) -> AsyncIterator[NodeMonitor]:
    """Collect and serve while the block runs. Raises ConfigError."""
    network_id = sources.terms.network_id
    with (
        open_thread_runner("monitor") as run,
        open_history(sources.data_dir / FILE, network_id=network_id) as history,
    ):
        monitor = NodeMonitor(sources, history, run=run, shows_addresses=options.shows_addresses)
        async with serve_monitor(options, monitor), asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(_collect(monitor))
            yield monitor
            collecting.cancel()


async def _collect(monitor: NodeMonitor) -> None:
    try:
        await monitor.run()
    except Exception:
        # The page is for people: a defect in it must not end a node that earns.
        logger.exception("the monitor page stands still: it cannot be brought up to date")
