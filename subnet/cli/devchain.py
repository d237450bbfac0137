"""``mesh devchain``: a development chain on this machine."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import emit, say
from subnet.cli.options import AsJson


class Mode(StrEnum):
    INTERVAL = "interval"
    INSTANT = "instant"
    MANUAL = "manual"


class Activation(StrEnum):
    MANUAL = "manual"
    AUTOMATIC = "automatic"


def devchain(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs --expose.")
    ] = "127.0.0.1",
    expose: Annotated[
        bool,
        typer.Option("--expose", help="Let others in, who can then spend from every account."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="WebSocket port; 0 takes a free one.")
    ] = 9944,
    block_seconds: Annotated[float, typer.Option(min=0.05, help="Seconds between blocks.")] = 6.0,
    epoch_length: Annotated[int, typer.Option(min=20, help="Blocks in an epoch.")] = 20,
    finality_lag: Annotated[
        int, typer.Option(min=0, help="Blocks that finality lags the head.")
    ] = 2,
    activation: Annotated[
        Activation,
        typer.Option(help="Whether nodes activate themselves (the original flow) or are queued."),
    ] = Activation.MANUAL,
    block_mode: Annotated[
        Mode, typer.Option(help="What makes a block: the clock, an extrinsic, or dev_newBlock.")
    ] = Mode.INTERVAL,
    db: Annotated[
        Path | None, typer.Option(help="SQLite file that keeps the chain; memory if absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a Hypertensor development chain that stock Substrate clients connect to.

    Alith to Faith of the well-known development mnemonic are funded: their keys are public.
    """
    import asyncio

    from devchain.chain_types import ActivationMode
    from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
    from devchain.run import run_until_stopped
    from devchain.runtime import LedgerConfig
    from mesh.loopback import is_loopback
    from mesh.progress import track
    from subnet.errors import UsageError

    if not expose and not is_loopback(host):
        raise UsageError(
            f"--host {host} lets others spend from this chain's accounts, whose keys are public",
            "leave --host out, or add --expose where that is meant",
        )

    def on_ready(url: str) -> None:
        emit(json.dumps({"url": url}) if as_json else url)
        say(f"development chain with a block every {block_seconds:g} s; Ctrl-C stops it")

    ledger = LedgerConfig(
        epoch_length=epoch_length,
        activation_mode=ActivationMode[activation.name],
        balances=fund_development_accounts(),
    )
    config = DevChainConfig(
        ledger=ledger,
        host=host,
        port=port,
        block_seconds=block_seconds,
        mode=BlockMode(block_mode),
        finality_lag=finality_lag,
        database=db,
    )
    asyncio.run(
        run_until_stopped(
            config,
            on_ready=on_ready,
            follow_replay=lambda count: track(
                "replaying the stored blocks", total=count, unit="blocks"
            ),
        )
    )
