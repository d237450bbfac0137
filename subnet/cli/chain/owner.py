"""Commands of a subnet's owner: change a setting, pause, go on, remove the subnet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from subnet.cli.chain.options import Signing, Subnet, expand_options, parse_amount
from subnet.cli.chain.send import send_call
from subnet.errors import UsageError

AMOUNT_SETTINGS = frozenset({"min-max-stake"})
TEXT_SETTINGS = frozenset({"name", "repo", "description", "misc"})


@expand_options
def pause_subnet(subnet: Subnet, *, signing: Signing) -> None:
    """Pause a subnet, signed by its owner."""
    send_call(signing, "owner_pause_subnet", subnet=subnet, owner_only=True)


@expand_options
def unpause_subnet(subnet: Subnet, *, signing: Signing) -> None:
    """Let a paused subnet go on, signed by its owner."""
    send_call(signing, "owner_unpause_subnet", subnet=subnet, owner_only=True)


@expand_options
def deactivate_subnet(
    subnet: Subnet,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it removes the subnet.")] = False,
    *,
    signing: Signing,
) -> None:
    """Remove a subnet at once and for good, signed by its owner. Stake stays claimable."""
    if not yes and not signing.dry_run:
        typer.confirm(f"Remove subnet {subnet} for good?", abort=True, err=True)
    send_call(signing, "owner_deactivate_subnet", subnet=subnet, owner_only=True)


@expand_options
def set_subnet(
    subnet: Subnet,
    setting: Annotated[
        str, typer.Argument(help="The owner call without owner_update_, such as churn-limit.")
    ],
    values: Annotated[
        list[str], typer.Argument(help="Text, a number, or TENSOR for min-max-stake (two).")
    ],
    *,
    signing: Signing,
) -> None:
    """Change one of a subnet's settings, signed by its owner."""
    call = f"owner_update_{setting.replace('-', '_')}"
    send_call(signing, call, _parse_setting(setting, values), subnet=subnet, owner_only=True)


def _parse_setting(setting: str, values: list[str]) -> Mapping[str, object]:
    """Return the call's arguments: bytes, an integer, or two amounts. Raises UsageError."""
    wanted = 2 if setting in AMOUNT_SETTINGS else 1
    if len(values) != wanted:
        raise UsageError(f"{setting} takes {wanted} value(s), not {len(values)}", "check the line")
    if setting in AMOUNT_SETTINGS:
        return {"min": parse_amount(values[0]), "max": parse_amount(values[1])}
    if setting in TEXT_SETTINGS:
        return {"value": values[0].encode()}
    if not values[0].isdecimal():
        raise UsageError(f"{setting} takes a whole number", "percentages are 10^18 for 100 %")
    return {"value": int(values[0])}
