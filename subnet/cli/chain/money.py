"""``mesh chain transfer`` and ``mesh chain balance``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import (
    Amount,
    Reading,
    Result,
    Signing,
    expand_options,
    format_amount,
    parse_account,
    parse_amount,
)

if TYPE_CHECKING:
    from subnet.account.conditions import Check
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

    async def work(chain: SubstrateChain) -> Result | Sequence[Check]:
        from subnet.account.conditions import check_transfer
        from subnet.account.registration import transfer as send

        if signing.dry_run:
            return await check_transfer(chain, sender=key.account_id, amount=units)
        receipt = await send(chain, sender=key, recipient=recipient, amount=units)
        return Result(
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
    reading.give(Result({"account": account, "free": str(units)}, text))
