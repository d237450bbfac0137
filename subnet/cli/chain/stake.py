"""Commands that add, remove and claim stake: a node's own, and stake delegated to a subnet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import (
    Amount,
    CommandResult,
    Hotkey,
    Reading,
    Signing,
    expand_options,
    parse_account,
    parse_amount,
)
from subnet.cli.chain.send import account_text, send_call
from subnet.cli.options import NodeId, Subnet

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from subnet.chain.substrate import SubstrateChain

ToNode = Annotated[
    int | None, typer.Option("--node", min=1, help="A node of it, instead of the subnet.")
]


@expand_options
def add_stake(
    subnet: Subnet, node_id: NodeId, hotkey: Hotkey, amount: Amount, *, signing: Signing
) -> None:
    """Add to a node's stake, signed by its coldkey."""
    arguments = {"hotkey": account_text(hotkey), "stake_to_be_added": parse_amount(amount)}
    send_call(signing, "add_stake", arguments, subnet=subnet, node_id=node_id)


@expand_options
def remove_stake(subnet: Subnet, hotkey: Hotkey, amount: Amount, *, signing: Signing) -> None:
    """Begin to unbond stake, signed by the coldkey; `unbondings` tells when it can be claimed."""
    arguments = {"hotkey": account_text(hotkey), "stake_to_be_removed": parse_amount(amount)}
    send_call(signing, "remove_stake", arguments, subnet=subnet)


@expand_options
def claim(*, signing: Signing) -> None:
    """Claim every unbonding whose time has come."""
    send_call(signing, "claim_unbondings")


@expand_options
def delegate(subnet: Subnet, amount: Amount, node_id: ToNode = None, *, signing: Signing) -> None:
    """Delegate stake to a subnet, whose emissions grow with it, or to one of its nodes."""
    units = parse_amount(amount)
    if node_id is None:
        send_call(signing, "add_to_delegate_stake", {"stake_to_be_added": units}, subnet=subnet)
        return
    arguments = {"subnet_node_id": node_id, "node_delegate_stake_to_be_added": units}
    send_call(signing, "add_to_node_delegate_stake", arguments, subnet=subnet)


@expand_options
def undelegate(
    subnet: Subnet,
    shares: Annotated[int, typer.Option("--shares", min=1, help="Shares to give back.")],
    node_id: ToNode = None,
    *,
    signing: Signing,
) -> None:
    """Begin to unbond delegated stake, by shares."""
    if node_id is None:
        send_call(signing, "remove_delegate_stake", {"shares_to_be_removed": shares}, subnet=subnet)
        return
    arguments = {
        "subnet_node_id": node_id,
        "node_delegate_stake_shares_to_be_removed": shares,
    }
    send_call(signing, "remove_node_delegate_stake", arguments, subnet=subnet)


@expand_options
def unbondings(
    account: Annotated[str, typer.Argument(help="Coldkey account, 0x...")], *, reading: Reading
) -> None:
    """List what an account has unbonded, and from which block on `claim` pays it out."""
    from subnet.account.money import fetch_unbondings

    account_id = parse_account(account)
    rows = reading.ask(lambda chain: fetch_unbondings(chain, account_id))
    described = [
        {"block": row.block, "amount": str(row.amount), "claimable": row.claimable} for row in rows
    ]
    lines = [
        f"{format_amount(row.amount)} TENSOR from block {row.block} on"
        f"{' (now)' if row.claimable else ''}"
        for row in rows
    ]
    text = "\n".join(lines) or "nothing is unbonding"
    reading.give(CommandResult({"account": account, "unbondings": described}, text))


@expand_options
def delegation(
    account: Annotated[str, typer.Argument(help="Delegating account, 0x...")],
    subnet: Subnet,
    node_id: ToNode = None,
    *,
    reading: Reading,
) -> None:
    """Show the shares that an account holds of the stake delegated to a subnet or a node."""
    account_id = parse_account(account)

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> CommandResult:
        from subnet.account.money import fetch_delegated_shares

        shares = await fetch_delegated_shares(chain, account_id, subnet_id, node_id)
        described = {"account": account, "subnet_id": subnet_id, "shares": str(shares)}
        if node_id is None:
            return CommandResult(described, f"{shares} shares of subnet {subnet_id}")
        text = f"{shares} shares of node {node_id} of subnet {subnet_id}"
        return CommandResult(described | {"subnet_node_id": node_id}, text)

    reading.give(reading.ask_subnet(subnet, work))
