"""``mesh chain transfer``, ``balance`` and ``unbondings``."""

from __future__ import annotations

from typing import Annotated

import typer

from subnet.cli.chain.options import (
    DEFAULT_CHAIN,
    NO_TIP,
    AsJson,
    Chain,
    DevAccount,
    DryRun,
    KeyFile,
    PasswordFile,
    Subnet,
    Tip,
    format_amount,
    load_signer,
    open_chain,
    parse_account,
    parse_amount,
    print_checks,
    print_result,
    require_subnet,
    run,
)


def transfer(
    to: Annotated[str, typer.Option("--to", help="Receiving account, 0x...")],
    amount: Annotated[str, typer.Option("--amount", help="TENSOR, for example 12.5.")],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send TENSOR to an account; the sending account stays alive."""
    recipient, units = parse_account(to), parse_amount(amount)
    key = load_signer(key_file=key_file, password_file=password_file, dev_account=dev_account)

    async def work() -> None:
        from subnet.account.conditions import check_transfer
        from subnet.account.registration import transfer as send

        async with open_chain(chain, dev_account=dev_account, tip=tip) as client:
            if dry_run:
                checks = await check_transfer(client, sender=key.account_id, amount=units)
                print_checks(checks, as_json=as_json)
                return
            receipt = await send(client, sender=key, recipient=recipient, amount=units)
            print_result(
                {
                    "to": to,
                    "amount": str(units),
                    "block": receipt.block_number,
                    "extrinsic": f"0x{receipt.extrinsic_hash.hex()}",
                },
                as_json=as_json,
                text=f"sent {format_amount(units)} TENSOR to {to} in block {receipt.block_number}",
            )

    run(work)


def balance(
    account: Annotated[str, typer.Argument(help="Account, 0x...")],
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show the free balance of an account."""
    account_id = parse_account(account)

    async def work() -> None:
        async with open_chain(chain) as client:
            units = await client.fetch_balance(account_id)
            print_result(
                {"account": account, "free": str(units)},
                as_json=as_json,
                text=f"{format_amount(units)} TENSOR",
            )

    run(work)


def unbondings(
    account: Annotated[str, typer.Argument(help="Coldkey account, 0x...")],
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """List what an account has unbonded, and from which block on `claim` pays it out."""
    account_id = parse_account(account)

    async def work() -> None:
        from subnet.account.money import fetch_unbondings

        async with open_chain(chain) as client:
            rows = await fetch_unbondings(client, account_id)
            print_result(
                {
                    "account": account,
                    "unbondings": [
                        {"block": row.block, "amount": str(row.amount), "claimable": row.claimable}
                        for row in rows
                    ],
                },
                as_json=as_json,
                text="\n".join(
                    f"{format_amount(row.amount)} TENSOR from block {row.block} on"
                    f"{' (now)' if row.claimable else ''}"
                    for row in rows
                )
                or "nothing is unbonding",
            )

    run(work)


def delegation(
    account: Annotated[str, typer.Argument(help="Delegating account, 0x...")],
    subnet: Subnet,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show the shares that an account holds of a subnet's delegate stake."""
    account_id = parse_account(account)

    async def work() -> None:
        from subnet.account.money import fetch_delegated_shares

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            shares = await fetch_delegated_shares(client, account_id, subnet_id)
            print_result(
                {"account": account, "subnet_id": subnet_id, "shares": str(shares)},
                as_json=as_json,
                text=f"{shares} shares of subnet {subnet_id}",
            )

    run(work)
