"""The development chain as a process that runs until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from devchain.config import DevChainConfig
from devchain.server import DevChain, FollowReplay


async def run_until_stopped(
    config: DevChainConfig,
    *,
    on_ready: Callable[[str], None],
    follow_replay: FollowReplay | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; ``on_ready`` gets the URL. Raises DevchainUnusable.

    ``follow_replay`` is told how many stored blocks are replayed, and gives what hears of each.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with DevChain.open(config, follow_replay=follow_replay) as devchain:
        on_ready(devchain.url)
        await stopped.wait()
