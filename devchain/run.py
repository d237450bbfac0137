"""The development chain as a process that runs until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from devchain.config import DevChainConfig
from devchain.server import DevChain


async def run_until_stopped(config: DevChainConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``on_ready`` gets the URL. Raises DevchainUnusable."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with DevChain.open(config) as devchain:
        on_ready(devchain.url)
        await stopped.wait()
