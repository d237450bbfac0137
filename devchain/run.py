"""A development chain as a process: it runs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from devchain.values import ActivationMode


async def run_until_stopped(
    *,
    host: str,
    port: int,
    block_seconds: float,
    epoch_length: int,
    finality_lag: int,
    manual_activation: bool,
    database: Path | None,
    mode: BlockMode = BlockMode.INTERVAL,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; ``on_ready`` gets the URL. Raises DevchainUnusable."""
    activation = ActivationMode.MANUAL if manual_activation else ActivationMode.AUTOMATIC
    config = DevChainConfig(
        ledger=LedgerConfig(
            epoch_length=epoch_length,
            activation_mode=activation,
            balances=fund_development_accounts(),
        ),
        host=host,
        port=port,
        block_seconds=block_seconds,
        mode=mode,
        finality_lag=finality_lag,
        database=database,
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with DevChain.open(config) as devchain:
        if on_ready is not None:
            on_ready(devchain.url)
        await stopped.wait()
