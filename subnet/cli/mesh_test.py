"""``mesh-test MODEL --hoster | --validator``: run one node of a subnet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.alerts import (
    AlertWebhook,
    AlertWebhookFile,
    AlertWebhookPrivate,
    make_webhook,
)
from subnet.cli.console import NODE_PROGRAM, VersionOption, run_app
from subnet.cli.logs import (
    LogFileOption,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    make_log_options,
)
from subnet.cli.metrics import (
    MetricsHost,
    MetricsPort,
    MetricsTokenFile,
    NoMetrics,
    make_metrics_options,
)
from subnet.cli.monitor_options import (
    MonitorAddresses,
    MonitorHost,
    MonitorPort,
    MonitorPublic,
    make_monitor_options,
)
from subnet.cli.options import Chain, DataDir, Offline, OwnSubnet, PasswordFile

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def mesh_test(
    model: Annotated[
        str,
        typer.Argument(
            help="Hugging Face name, a local folder in that format, a GGUF file, or mesh-tiny."
        ),
    ],
    hoster: Annotated[
        bool, typer.Option("--hoster", help="Serve blocks, answer challenges.")
    ] = False,
    validator: Annotated[
        bool, typer.Option("--validator", help="Score the others; reads single blocks to audit.")
    ] = False,
    light: Annotated[
        bool,
        typer.Option("--light", help="A validator without the model's weights: audits nothing."),
    ] = False,
    identity_path: Annotated[
        Path, typer.Option(help="Ed25519 identity file, from `mesh keygen`.")
    ] = Path("peer_id.key"),
    new_swarm: Annotated[bool, typer.Option("--new-swarm", help="Be the first peer.")] = False,
    initial_peers: Annotated[
        list[str] | None,
        typer.Option(help="Addresses of running peers; several may follow. Else the chain's."),
    ] = None,
    host_maddrs: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses to listen on; several may follow.")
    ] = None,
    announce_maddrs: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses that others dial; several may follow.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="TCP port to listen on, instead of --host-maddrs."),
    ] = None,
    public_ip: Annotated[
        str | None, typer.Option(help="Public address to announce; needs --port.")
    ] = None,
    auto_relay: Annotated[
        bool,
        typer.Option("--auto-relay", help="Be reached through bootstraps: for a closed port."),
    ] = False,
    block_indices: Annotated[
        str | None, typer.Option(help="Blocks to serve, START:END, half-open, such as 0:11.")
    ] = None,
    num_layers: Annotated[
        int | None,
        typer.Option(
            "--num-blocks",
            min=1,
            help="How many blocks to serve, where it helps most; as many as fit if absent.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    torch_dtype: Annotated[
        str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.")
    ] = "auto",
    hop_dtype: Annotated[
        str,
        typer.Option(
            help="Hidden states sent on: auto (as computed), or for float32 bfloat16 or float16."
        ),
    ] = "auto",
    quant_type: Annotated[
        str,
        typer.Option(help="none, or int8 or int4 weights; paid where the manifest says the same."),
    ] = "none",
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bits whatever runs beside; slower."),
    ] = False,
    speculate: Annotated[
        str,
        typer.Option(help="auto: draft tokens from the text, several verified at once; or off."),
    ] = "auto",
    unpaid: Annotated[
        bool,
        typer.Option("--unpaid", help="Serve without taking part in consensus."),
    ] = False,
    allow_file: Annotated[
        Path | None, typer.Option(help="Serve only these peer ids, one a line; SIGHUP rereads.")
    ] = None,
    deny_file: Annotated[
        Path | None, typer.Option(help="Do not serve these peer ids; SIGHUP rereads.")
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(help="Function that ranks callers: module:function, or an entry point."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads at most; all cores if absent.")
    ] = None,
    attn_cache_tokens: Annotated[
        int, typer.Option(min=16, help="Tokens of key-value cache, over all sessions.")
    ] = 16_384,
    max_sessions: Annotated[
        int | None, typer.Option(min=1, help="Open sessions; suits the device if absent.")
    ] = None,
    max_sessions_per_peer: Annotated[
        int | None, typer.Option(min=1, help="Sessions of one client; half of all if absent.")
    ] = None,
    max_batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Sessions in one step; suits the device if absent.")
    ] = None,
    prefill_chunk: Annotated[
        int | None, typer.Option(min=1, max=512, help="Prompt tokens in one step; 128 if absent.")
    ] = None,
    offline: Offline = False,
    subnet: OwnSubnet = None,
    node: Annotated[
        int | None, typer.Option(min=1, help="The node's id; looked up by peer id if absent.")
    ] = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    hotkey_path: Annotated[
        Path | None,
        typer.Option(
            help="Keystore v3 file of the hotkey; without it nothing is proposed or attested."
        ),
    ] = None,
    password_file: PasswordFile = None,
    data_dir: DataDir = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    metrics_token_file: MetricsTokenFile = None,
    no_metrics: NoMetrics = False,
    monitor_port: MonitorPort = None,
    monitor_host: MonitorHost = None,
    monitor_public: MonitorPublic = False,
    monitor_addresses: MonitorAddresses = False,
    alert_webhook: AlertWebhook = None,
    alert_webhook_file: AlertWebhookFile = None,
    alert_webhook_private: AlertWebhookPrivate = False,
    log_level: LogLevelOption = LogLevel.INFO,
    log_format: LogFormatOption = None,
    log_file: LogFileOption = None,
    summary: Annotated[
        bool | None,
        typer.Option(help="A live summary below the log lines; on a terminal if not said."),
    ] = None,
    version: VersionOption = False,
) -> None:
    """Run one node of a subnet, as a hoster or as a validator.

    The older spelling works too: underscores for dashes, several values after one option.
    --verbose shows the traceback of an error.
    """
    from subnet.cli.mesh_test_command import run_node_command

    run_node_command(
        {
            "model": model,
            "identity_path": identity_path,
            "new_swarm": new_swarm,
            "initial_peers": tuple(initial_peers or ()),
            "host_maddrs": tuple(host_maddrs or ()),
            "announce_maddrs": tuple(announce_maddrs or ()),
            "port": port,
            "public_ip": public_ip,
            "auto_relay": auto_relay,
            "num_layers": num_layers,
            "device": device,
            "torch_dtype": torch_dtype,
            "hop_dtype": hop_dtype,
            "quant_type": quant_type,
            "deterministic": deterministic,
            "speculate": speculate,
            "unpaid": unpaid,
            "light": light,
            "allow_file": allow_file,
            "deny_file": deny_file,
            "priority": priority,
            "threads": threads,
            "attn_cache_tokens": attn_cache_tokens,
            "max_sessions": max_sessions,
            "max_sessions_per_peer": max_sessions_per_peer,
            "max_batch_rows": max_batch_rows,
            "prefill_chunk": prefill_chunk,
            "subnet": subnet,
            "subnet_node_id": node,
            "chain_url": chain,
            "hotkey_path": hotkey_path,
            "hotkey_password_file": password_file,
            "data_dir": data_dir,
            "metrics": make_metrics_options(
                host=metrics_host,
                port=metrics_port,
                token_file=metrics_token_file,
                no_metrics=no_metrics,
            ),
            "monitor": make_monitor_options(
                port=monitor_port,
                host=monitor_host,
                is_public=monitor_public,
                shows_addresses=monitor_addresses,
            ),
            "alert_webhook": make_webhook(
                alert_webhook, file=alert_webhook_file, may_be_private=alert_webhook_private
            ),
        },
        hoster=hoster,
        validator=validator,
        block_indices=block_indices,
        logs=make_log_options(log_level, log_format, log_file),
        has_summary=sys.stderr.isatty() if summary is None else summary,
    )


def main() -> None:
    """Entry point of the ``mesh-test`` script."""
    run_app(app, sys.argv[1:], name=NODE_PROGRAM)


if __name__ == "__main__":
    main()
