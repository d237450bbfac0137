"""``mesh chain transfer``, ``balance`` and ``coldkey``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import (
    Amount,
    CommandResult,
    Reading,
    Signing,
    expand_options,
    parse_account,
    parse_amount,
)

if TYPE_CHECKING:
    from subnet.account.conditions import Precondition
    from subnet.account.holdings import HotkeyHolding
    from subnet.chain.substrate import SubstrateChain


@expand_options
def transfer(
    to: Annotated[str, typer.Option("--to", help="Receiving account, 0x...")],
    amount: Amount,
    *,
    signing: Signing,
) -> None:
    """Send TENSOR to an account; the sending account stays alive."""
    recipient, units = parse_account(to), parse_amount(amount)
    key = signing.load_key()

    async def work(chain: SubstrateChain) -> CommandResult | Sequence[Precondition]:
        from subnet.account.conditions import check_transfer
        from subnet.account.registration import transfer as send

        if signing.dry_run:
            return await check_transfer(chain, sender=key.account_id, amount=units)
        receipt = await send(chain, sender=key, recipient=recipient, amount=units)
        return CommandResult(
            {
                "to": to,
                "amount": str(units),
                "block": receipt.block_number,
                "extrinsic": f"0x{receipt.extrinsic_hash.hex()}",
            },
            f"sent {format_amount(units)} TENSOR to {to} in block {receipt.block_number}",
        )

    signing.give_outcome(signing.ask(work))


@expand_options
def balance(
    account: Annotated[str, typer.Argument(help="Account, 0x...")], *, reading: Reading
) -> None:
    """Show the free balance of an account."""
    account_id = parse_account(account)
    units = reading.ask(lambda chain: chain.fetch_balance(account_id))
    text = f"{format_amount(units)} TENSOR"
    reading.give(CommandResult({"account": account, "free": str(units)}, text))


@expand_options
def coldkey(
    account: Annotated[str, typer.Argument(help="Coldkey account, 0x...")], *, reading: Reading
) -> None:
    """Show what a coldkey has in all subnets: nodes, stake, what unbonds, its balance."""
    from subnet.account.holdings import fetch_holdings

    account_id = parse_account(account)
    held = reading.ask(lambda chain: fetch_holdings(chain, account_id))
    rows = [
        {
            "subnet_id": row.subnet_id,
            "subnet_node_id": row.node_id,
            "class": None if row.node_class is None else row.node_class.name.capitalize(),
            "hotkey": f"0x{row.hotkey.hex()}",
            "stake": str(row.stake),
        }
        for row in held.hotkeys
    ]
    unbonding = [{"block": row.block, "amount": str(row.amount)} for row in held.unbondings]
    lines = [f"{_describe_holding(row)}  0x{row.hotkey.hex()}" for row in held.hotkeys]
    lines += [
        f"unbonds   {format_amount(row.amount)} TENSOR, to be claimed from block {row.block} on"
        for row in held.unbondings
    ]
    lines.append(f"free      {format_amount(held.free)} TENSOR")
    described = {"account": account, "hotkeys": rows, "unbondings": unbonding}
    reading.give(CommandResult(described | {"free": str(held.free)}, "\n".join(lines)))


def _describe_holding(row: HotkeyHolding) -> str:
    if row.node_id is None:
        node = "no node any more: `mesh chain leave` brings the stake home"
    else:
        kind = "queued" if row.node_class is None else row.node_class.name.capitalize()
        node = f"node {row.node_id}, {kind}"
    return f"subnet {row.subnet_id}  {format_amount(row.stake)} TENSOR  {node}"
