"""From a parsed command line to a running node: validate, check, run."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

from pydantic import ValidationError

from consensus.types import Role
from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.inference.threads import wait_briefly
from mesh.model.config import ModelConfig
from subnet.cli.console import say
from subnet.cli.logs import start_logs
from subnet.errors import UsageError
from subnet.operator.config import NodeConfig, parse_layer_indices
from subnet.operator.logs import LogOptions

_USAGE_HINT = "see `mesh-test --help`"
_ADDRESS = re.compile(r"(/[^/\s]+){2,}")


def run_node_command(
    values: dict[str, Any],
    *,
    hoster: bool,
    validator: bool,
    block_indices: str | None,
    logs: LogOptions | None = None,
    has_summary: bool = False,
) -> None:
    """Validate the values, check everything that is cheap, then run the node until it is stopped.

    With ``has_summary`` its status is shown live below the log lines. Raises UsageError,
    ConfigError and what the node itself raises.
    """
    config = parse_config(values, hoster=hoster, validator=validator, block_indices=block_indices)
    from subnet.operator.preflight import prepare

    prepared = asyncio.run(prepare(config))
    for notice in prepared.notices:
        say(notice)
    bars = start_logs(logs)
    if _may_choose_threads(config, prepared.model):
        wait_briefly()
    from subnet.node.run import run_node
    from subnet.operator.supervisor import Supervisor

    supervisor = Supervisor.from_environment(os.environ)

    async def work() -> None:
        if not has_summary:
            await run_node(prepared, supervisor=supervisor)
            return
        from subnet.cli.live_summary import show_summary

        async with show_summary(prepared.data_dir, bars):
            await run_node(prepared, supervisor=supervisor)

    asyncio.run(work())


def _may_choose_threads(config: NodeConfig, model: ModelConfig) -> bool:
    """Whether the engine may compute its steps with fewer threads than it has.

    In float32 another number gives other bits, so it is fixed (mesh/inference/step_threads.py).
    """
    dtype = model.stored_dtype if config.torch_dtype == "auto" else config.torch_dtype
    is_on_cpu = config.role is Role.HOSTER and config.device == "cpu"
    return is_on_cpu and dtype != "float32" and config.threads != 1


def parse_config(
    values: dict[str, Any], *, hoster: bool, validator: bool, block_indices: str | None
) -> NodeConfig:
    """Return the validated configuration. Raises UsageError in one sentence."""
    if hoster == validator:
        raise UsageError("exactly one of --hoster and --validator is needed", _USAGE_HINT)
    try:
        layers = parse_layer_indices(block_indices) if block_indices is not None else None
    except ValueError as error:
        raise UsageError(f"--block-indices: {error}", _USAGE_HINT) from error
    try:
        config = NodeConfig(
            **values, role=Role.HOSTER if hoster else Role.VALIDATOR, layer_indices=layers
        )
    except ValidationError as error:
        raise UsageError(_describe(error), _USAGE_HINT) from error
    _check_addresses(config)
    return config


def _check_addresses(config: NodeConfig) -> None:
    """Refuse what is plainly no multiaddress; the transport, which knows them all, is heavy."""
    for option, addresses in (
        ("--host-maddrs", config.host_maddrs),
        ("--announce-maddrs", config.announce_maddrs),
        ("--initial-peers", config.initial_peers),
    ):
        for address in addresses:
            if not _ADDRESS.fullmatch(address):
                raise UsageError(
                    f"{option}: {address!r} is not a multiaddress such as /ip4/1.2.3.4/tcp/31330",
                    _USAGE_HINT,
                )
    for address in config.initial_peers:
        try:
            PeerId.from_base58(address.rpartition("/p2p/")[2])
        except BadPeerId as error:
            raise UsageError(
                f"--initial-peers: {address!r} does not end in /p2p/ and a peer id", _USAGE_HINT
            ) from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    option = "--" + str(first["loc"][0]).replace("_", "-").removesuffix("-url")
    return f"{option}: {message}"
