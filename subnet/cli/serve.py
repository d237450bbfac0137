"""``mesh serve``: the HTTP gateway in front of a subnet, and its API keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli import serve_keys
from subnet.cli.console import emit, say
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
from subnet.cli.options import AsJson, Chain, Offline, SwarmSubnet
from subnet.cli.peers import FoundPeers, find_peers
from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mesh.api.server import ServeConfig
    from subnet.gateway import ClientConfig
    from subnet.operator.metrics_options import MetricsOptions


class ServeAction(StrEnum):
    """What to do instead of answering."""

    USAGE = "usage"


def serve(
    action: Annotated[
        ServeAction | None,
        typer.Argument(
            metavar="usage",
            help="Show what each key used on each day, and end.",
            show_default=False,
        ),
    ] = None,
    initial_peers: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses of running nodes; several may follow.")
    ] = None,
    subnet: SwarmSubnet = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port; 0 takes a free one.")
    ] = 8000,
    model: Annotated[
        str | None, typer.Option(help="Where the tokenizer is; the peers' model if absent.")
    ] = None,
    identity_path: Annotated[
        Path | None, typer.Option(help="client_peer_id.key; a fresh identity if absent.")
    ] = None,
    offline: Offline = False,
    max_layers_per_hop: Annotated[
        int | None,
        typer.Option("--max-blocks-per-hop", min=1, help="Most blocks that one hoster computes."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A host name that the gateway answers under.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call the API.")
    ] = None,
    keys_file: Annotated[
        Path | None, typer.Option(help="File of API keys; with it every call needs one.")
    ] = None,
    create_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Create a key, show it once, and end.")
    ] = None,
    revoke_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Revoke a key, and end.")
    ] = None,
    list_keys: Annotated[
        bool, typer.Option("--list-keys", help="List the keys by name, and end.")
    ] = False,
    per_minute: Annotated[
        int, typer.Option(min=1, help="Requests a minute of the key to create.")
    ] = 120,
    burst: Annotated[int, typer.Option(min=1, help="Requests at once of the key to create.")] = 30,
    tokens_per_day: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a day (UTC) of the key to create; no limit if absent."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="When the key to create ends: 2027-01-31, in UTC."),
    ] = None,
    allowed_model: Annotated[
        list[str] | None,
        typer.Option(help="A model that the key to create may use; every one if absent."),
    ] = None,
    usage_file: Annotated[
        Path | None,
        typer.Option(help="What the keys use; KEYS_FILE.usage.sqlite if absent."),
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    metrics_token_file: MetricsTokenFile = None,
    no_metrics: NoMetrics = False,
    log_level: LogLevelOption = LogLevel.INFO,
    log_format: LogFormatOption = None,
    log_file: LogFileOption = None,
    as_json: AsJson = False,
) -> None:
    """Answer OpenAI's API and a chat page over HTTP, with the swarm behind them.

    Listens on this machine only, unless an API key guards it. Put a TLS proxy in front of it
    before you open it to others. The hosters see the prompts.
    """
    if create_key is not None or revoke_key is not None or list_keys:
        path = _require_keys_file(keys_file)
        if create_key is not None:
            terms = serve_keys.make_terms(tokens_per_day, expires, allowed_model or [])
            rate = (per_minute, burst)
            serve_keys.create(path, create_key, rate=rate, terms=terms, as_json=as_json)
        if revoke_key is not None:
            serve_keys.revoke(path, revoke_key, as_json=as_json)
        if list_keys:
            serve_keys.show(path, as_json=as_json)
        return
    if action is ServeAction.USAGE:
        serve_keys.show_usage(_require_keys_file(keys_file), usage_file, as_json=as_json)
        return
    metrics = make_metrics_options(
        host=metrics_host,
        port=metrics_port,
        token_file=metrics_token_file,
        no_metrics=no_metrics,
    )
    serve_config = replace(
        _make_serve_config(host, port, keys_file, allowed_host or [], cors_origin or []),
        usage_file=usage_file,
    )
    start_logs(make_log_options(log_level, log_format, log_file), has_bars=not as_json)
    peers = find_peers(initial_peers, subnet=subnet, chain=chain)
    _run(
        _make_client_config(peers, model=model, identity_path=identity_path),
        serve_config,
        max_layers_per_hop=max_layers_per_hop,
        metrics=metrics,
        as_json=as_json,
    )


def _make_client_config(
    peers: FoundPeers, *, model: str | None, identity_path: Path | None
) -> ClientConfig:
    from keys.identity_file import load_identity_file
    from subnet.gateway import ClientConfig

    return ClientConfig(
        initial_peers=peers.addresses,
        network_id=peers.network_id,
        key=None if identity_path is None else load_identity_file(identity_path),
        model=model,
    )


def _make_serve_config(
    host: str,
    port: int,
    keys_file: Path | None,
    allowed_hosts: list[str],
    cors_origins: list[str],
) -> ServeConfig:
    from mesh.api.auth import KeyRing
    from mesh.api.errors import PublicBindWithoutKey
    from mesh.api.server import ServeConfig, check_bind

    try:
        # Before anything slow: a refusal should not take a minute.
        check_bind(host, None if keys_file is None else KeyRing.open(keys_file))
    except PublicBindWithoutKey as error:
        raise ConfigError(
            str(error), "create one with `mesh serve --keys-file FILE --create-key NAME`"
        ) from None
    return ServeConfig(
        host=host,
        port=port,
        keys_file=keys_file,
        allowed_hosts=tuple(allowed_hosts),
        cors_origins=tuple(cors_origins),
    )


def _run(
    client_config: ClientConfig,
    serve_config: ServeConfig,
    *,
    max_layers_per_hop: int | None,
    metrics: MetricsOptions | None,
    as_json: bool,
) -> None:
    import asyncio
    import os

    from mesh.api.errors import AddressInUse, UsageFileUnusable
    from subnet.gateway import run_gateway
    from subnet.operator.interrupts import run_interruptible
    from subnet.operator.supervisor import Supervisor

    gateway = run_gateway(
        client_config,
        serve_config,
        max_layers_per_hop=max_layers_per_hop,
        on_start=_make_greeting(serve_config, as_json=as_json),
        metrics=metrics,
        supervisor=Supervisor.from_environment(os.environ),
    )
    try:
        asyncio.run(run_interruptible(gateway))
    except AddressInUse as error:
        raise ConfigError(str(error), "choose another --port, or 0 for a free one") from None
    except UsageFileUnusable as error:
        raise ConfigError(str(error), serve_keys.USAGE_HINT) from None


def _make_greeting(config: ServeConfig, *, as_json: bool) -> Callable[[str], None]:
    def greet(url: str) -> None:
        emit(json.dumps({"url": url}) if as_json else url)
        say(f"chat page {url}/  ·  OpenAI base URL {url}/v1")
        if config.keys_file is None:
            say("no API key is asked for: only this machine can call it")

    return greet


def _require_keys_file(keys_file: Path | None) -> Path:
    if keys_file is None:
        raise UsageError("which file of keys?", "give --keys-file FILE")
    return keys_file
