"""Send one call of the Network pallet, or list its conditions; most signing commands do this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from subnet.cli.chain.options import CommandResult, Signing, parse_account, require_subnet

if TYPE_CHECKING:
    from subnet.account.conditions import Precondition
    from subnet.chain.substrate import SubstrateChain


def send_call(
    signing: Signing,
    call: str,
    arguments: Mapping[str, object] | None = None,
    *,
    subnet: str | None = None,
    node_id: int | None = None,
    owner_only: bool = False,
) -> None:
    """Sign and send ``Network.<call>`` and print where it landed, or list its conditions.

    ``subnet`` and ``node_id``, where given, go in front of ``arguments`` as subnet_id and
    subnet_node_id. ``owner_only`` calls are those of the subnet's owner.
    """
    key = signing.load_key()

    async def work(chain: SubstrateChain) -> CommandResult | Sequence[Precondition]:
        named: dict[str, object] = {}
        if subnet is not None:
            named["subnet_id"] = await require_subnet(chain, subnet)
        if node_id is not None:
            named["subnet_node_id"] = node_id
        named |= arguments or {}
        if signing.dry_run:
            from subnet.account.conditions import check_call

            return await check_call(
                chain, call, named, signer=key.account_id, owner_only=owner_only, node_id=node_id
            )
        inclusion = await chain.submit("Network", call, named, key=key)
        block = inclusion.receipt.block_number
        return CommandResult(
            {
                "call": call,
                "block": block,
                "extrinsic": f"0x{inclusion.receipt.extrinsic_hash.hex()}",
                "events": [str(event) for event in inclusion.events],
            },
            f"{call}: done in block {block}",
        )

    signing.give_outcome(signing.ask(work))


def account_text(text: str) -> str:
    """Return an account as a call takes it. Raises UsageError."""
    return f"0x{parse_account(text).hex()}"
