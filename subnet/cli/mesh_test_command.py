"""From a parsed command line to a running node: validate, check, run."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError

from consensus.types import Role
from subnet.cli.console import say
from subnet.config import NodeConfig, parse_block_indices
from subnet.errors import UsageError
from subnet.logs import configure_logs

_USAGE_HINT = "see `mesh-test --help`"


def run_node_command(
    values: dict[str, Any], *, hoster: bool, validator: bool, block_indices: str | None
) -> None:
    """Validate the values, check everything that is cheap, then run the node until it is stopped.

    Raises UsageError, ConfigError and what the node itself raises.
    """
    config = parse_config(values, hoster=hoster, validator=validator, block_indices=block_indices)
    from subnet.preflight import prepare

    prepared = asyncio.run(prepare(config))
    for notice in prepared.notices:
        say(notice)
    configure_logs()
    from subnet.node import run_node

    asyncio.run(run_node(prepared))


def parse_config(
    values: dict[str, Any], *, hoster: bool, validator: bool, block_indices: str | None
) -> NodeConfig:
    """Return the validated configuration. Raises UsageError in one sentence."""
    if hoster == validator:
        raise UsageError("exactly one of --hoster and --validator is needed", _USAGE_HINT)
    try:
        blocks = parse_block_indices(block_indices) if block_indices is not None else None
    except ValueError as error:
        raise UsageError(f"--block-indices: {error}", _USAGE_HINT) from error
    try:
        return NodeConfig(
            **values, role=Role.HOSTER if hoster else Role.VALIDATOR, block_indices=blocks
        )
    except ValidationError as error:
        raise UsageError(_describe(error), _USAGE_HINT) from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    option = "--" + str(first["loc"][0]).replace("_", "-").removesuffix("-url")
    return f"{option}: {message}"
