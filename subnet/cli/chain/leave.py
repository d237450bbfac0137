"""``mesh chain leave``: take a node out of its subnet and bring its stake home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import CommandResult, Hotkey, Signer, expand_options, parse_account
from subnet.cli.console import say
from subnet.cli.options import Subnet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.types import SubnetId
    from subnet.account.money import Unbonding
    from subnet.chain.substrate import SubstrateChain


@expand_options
def leave(
    subnet: Subnet,
    hotkey: Hotkey,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End where only time is missing, and say how much.")
    ] = False,
    *,
    signer: Signer,
) -> None:
    """Remove a node, unbond its stake and claim it, signed by its coldkey.

    Run it again after an interruption: what is done is not done twice.
    """
    account, coldkey = parse_account(hotkey), signer.load_key()

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> Sequence[Unbonding]:
        from subnet.account import leaving

        leaver = leaving.LeavingNode(subnet_id, account, coldkey)
        return await leaving.leave(chain, leaver, say=say, is_waiting=not no_wait)

    left = signer.ask_subnet(subnet, work)
    rows = [{"block": row.block, "amount": str(row.amount)} for row in left]
    lines = [
        f"{format_amount(row.amount)} TENSOR can be claimed from block {row.block} on: run this"
        " again then"
        for row in left
    ]
    done = f"hotkey {hotkey} has no node and no stake in subnet {subnet}"
    signer.give(CommandResult({"unbondings": rows}, "\n".join(lines) or done))
