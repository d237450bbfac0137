"""``mesh bootstrap``: a first peer to dial, and a relay; no role, no stake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit
from subnet.cli.logs import (
    LogFileOption,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    make_log_options,
    start_logs,
)
from subnet.cli.metrics import (
    MetricsHost,
    MetricsPort,
    MetricsTokenFile,
    NoMetrics,
    make_metrics_options,
)
from subnet.cli.options import AsJson, Chain, DataDir, OwnSubnet


def bootstrap(
    identity_path: Annotated[Path, typer.Option(help="Identity file, from `mesh keygen`.")] = Path(
        "bootstrap_peer_id.key"
    ),
    subnet: OwnSubnet = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    host_maddrs: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses to listen on; several may follow.")
    ] = None,
    announce_maddrs: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses that others dial; several may follow.")
    ] = None,
    initial_peers: Annotated[
        list[str] | None, typer.Option(help="Other peers to join; several may follow.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port, instead of --host-maddrs.")
    ] = None,
    data_dir: DataDir = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    metrics_token_file: MetricsTokenFile = None,
    no_metrics: NoMetrics = False,
    log_level: LogLevelOption = LogLevel.INFO,
    log_format: LogFormatOption = None,
    log_file: LogFileOption = None,
    as_json: AsJson = False,
) -> None:
    """Run a bootstrap and relay node. It prints the addresses that others dial."""
    import asyncio
    import os

    from platformdirs import user_data_path

    from keys.identity_file import load_identity_file
    from mesh.p2p.ports import PortInUse, check_ports_free
    from subnet.errors import ConfigError

    metrics = make_metrics_options(
        host=metrics_host,
        port=metrics_port,
        token_file=metrics_token_file,
        no_metrics=no_metrics,
    )
    key = load_identity_file(identity_path)
    listen = tuple(host_maddrs or (f"/ip4/0.0.0.0/tcp/{port or 0}",))
    try:
        check_ports_free(listen)
    except PortInUse as error:
        raise ConfigError(f"cannot listen on {error}", "choose another port") from error
    start_logs(make_log_options(log_level, log_format, log_file), has_bars=not as_json)
    from subnet.bootstrap import BootstrapConfig, run_bootstrap
    from subnet.operator.supervisor import Supervisor

    config = BootstrapConfig(
        key=key,
        chain_url=chain,
        subnet=subnet,
        host_maddrs=listen,
        announce_maddrs=tuple(announce_maddrs or ()),
        initial_peers=tuple(initial_peers or ()),
        data_dir=data_dir or user_data_path("mesh"),
        metrics=metrics,
    )

    def on_ready(addresses: tuple[str, ...]) -> None:
        emit(json.dumps({"addresses": addresses}) if as_json else "\n".join(addresses))

    supervisor = Supervisor.from_environment(os.environ)
    asyncio.run(run_bootstrap(config, on_ready=on_ready, supervisor=supervisor))
