"""``mesh monitor``: watch a network in the browser, without being part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.console import emit, say
from subnet.cli.logs import start_logs
from subnet.cli.options import AsJson
from subnet.errors import UsageError

if TYPE_CHECKING:
    from consensus.types import SubnetId

DEFAULT_PORT = 31343


def monitor(
    initial_peers: Annotated[
        list[str] | None,
        typer.Option(help="Multiaddresses of running nodes; several may follow. Else the chain's."),
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(envvar="MESH_CHAIN", help="Also show scores, stake and pay of this chain."),
    ] = None,
    subnet: Annotated[
        str | None,
        typer.Option(
            help="The subnet's id, friendly id or name on the chain; needed with --chain."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")
    ] = DEFAULT_PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need --public.")
    ] = "127.0.0.1",
    public: Annotated[
        bool, typer.Option("--public", help="Everybody who reaches the address may read the page.")
    ] = False,
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Publish the addresses that nodes announce.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="MESH_HOME", help="Where the history is kept; the user's data folder if absent."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who serves which blocks, and with --chain what each epoch brought.

    It joins as a client: it keeps no journal, so it sees no commits and makes no receipts.
    A node's own page (mesh-test --monitor-port) shows these too.
    """
    import asyncio

    from platformdirs import user_data_path

    from subnet.monitor.watcher import WatchConfig, run_watcher
    from subnet.operator.interrupts import run_interruptible
    from subnet.operator.monitor_options import MonitorOptions

    if not initial_peers and chain is None:
        raise UsageError(
            "the monitor needs a node to dial or a chain to read",
            "give --initial-peers ADDR, or --chain URL --subnet NAME",
        )
    if chain is None and subnet is not None:
        raise UsageError("a subnet has a name on a chain only", "give --chain URL, too")
    if chain is not None and subnet is None:
        raise UsageError("a chain has many subnets", "give --subnet NAME, too")
    options = MonitorOptions(port, host, public, addresses)
    options.check()
    start_logs(has_bars=not as_json)
    config = WatchConfig(
        initial_peers=tuple(initial_peers or ()),
        chain_url=chain,
        subnet_id=None if subnet is None else asyncio.run(_find_subnet(chain, subnet)),
        data_dir=data_dir or user_data_path("mesh"),
    )

    def greet(url: str) -> None:
        emit(json.dumps({"url": url}) if as_json else url)
        say(f"monitor page {url}/  ·  OpenAPI {url}/openapi.json")

    asyncio.run(run_interruptible(run_watcher(config, options, on_start=greet)))


async def _find_subnet(url: str | None, name: str) -> SubnetId:
    """Return the id of the subnet. Raises UsageError for an unknown one, or ChainUnavailable."""
    from subnet.cli.chain.options import open_chain, require_subnet

    assert url is not None
    async with open_chain(url) as chain:
        return await require_subnet(chain, name)
