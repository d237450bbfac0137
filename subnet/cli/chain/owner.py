"""Commands of a subnet's owner: settings, bootnodes, pause, going on, removal, a new owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from subnet.cli.chain.options import (
    Signing,
    expand_options,
    parse_amount,
    parse_pair,
    parse_peer_id,
)
from subnet.cli.chain.send import account_text, send_call
from subnet.cli.options import Subnet
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


@expand_options
def bootnodes(
    subnet: Subnet,
    add: Annotated[
        list[str] | None, typer.Option(help="PEER_ID=MULTIADDR; may be given several times.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Peer id; may be given several times.")
    ] = None,
    *,
    signing: Signing,
) -> None:
    """Add and remove bootnodes, signed by the owner or an account that it let in."""
    from subnet.account.registration import build_bootnode_arguments

    if not add and not remove:
        raise UsageError("nothing is added and nothing is removed", "give --add or --remove")
    pairs = (parse_pair(text, option="--add", form="PEER_ID=MULTIADDR") for text in add or ())
    arguments = build_bootnode_arguments(
        add=dict(pairs), remove=[parse_peer_id(text) for text in remove or ()]
    )
    send_call(signing, "update_bootnodes", arguments, subnet=subnet)


@expand_options
def bootnode_access(
    subnet: Subnet,
    account: Annotated[str, typer.Argument(help="Account, 0x..., that may set bootnodes.")],
    remove: Annotated[bool, typer.Option("--remove", help="It may no longer.")] = False,
    *,
    signing: Signing,
) -> None:
    """Let another account set the subnet's bootnodes, signed by the owner."""
    call = "owner_remove_bootnode_access" if remove else "owner_add_bootnode_access"
    arguments = {"remove_account" if remove else "new_account": account_text(account)}
    send_call(signing, call, arguments, subnet=subnet, owner_only=True)


@expand_options
def transfer_subnet(
    subnet: Subnet,
    to: Annotated[str, typer.Option("--to", help="The new owner, 0x..., who has to accept.")],
    *,
    signing: Signing,
) -> None:
    """Offer a subnet to a new owner, signed by the present one."""
    arguments = {"new_owner": account_text(to)}
    send_call(signing, "transfer_subnet_ownership", arguments, subnet=subnet, owner_only=True)


@expand_options
def accept_subnet(subnet: Subnet, *, signing: Signing) -> None:
    """Become the owner of a subnet, signed by the account to which it was offered."""
    send_call(signing, "accept_subnet_ownership", subnet=subnet)


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
