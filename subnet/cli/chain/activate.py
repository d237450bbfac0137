"""``mesh chain activate-node`` and ``mesh chain activate-subnet``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subnet.cli.chain.options import CommandResult, Signing, expand_options
from subnet.cli.options import NodeId, Subnet
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from subnet.account.conditions import Precondition
    from subnet.chain.substrate import SubstrateChain


@expand_options
def activate_node(subnet: Subnet, node_id: NodeId, *, signing: Signing) -> None:
    """Activate a registered node inside its start window, signed by its coldkey.

    Chains that activate nodes from a queue by themselves refuse this, and say so.
    """
    key = signing.load_key()

    async def work(
        chain: SubstrateChain, subnet_id: SubnetId
    ) -> CommandResult | Sequence[Precondition]:
        from consensus.types import SubnetNodeId
        from subnet.account import conditions, registration

        node = SubnetNodeId(node_id)
        if signing.dry_run:
            return await conditions.check_activate_node(
                chain, subnet_id=subnet_id, node_id=node, coldkey=key.account_id
            )
        receipt = await registration.activate_node(
            chain, subnet_id=subnet_id, node_id=node, coldkey=key
        )
        return CommandResult(
            {"subnet_id": subnet_id, "subnet_node_id": node, "block": receipt.block_number},
            f"node {node} is active since block {receipt.block_number}",
        )

    signing.give_outcome(signing.ask_subnet(subnet, work))


@expand_options
def activate_subnet(subnet: Subnet, *, signing: Signing) -> None:
    """Activate a registered subnet that has enough nodes, signed by its owner."""
    key = signing.load_key()

    async def work(
        chain: SubstrateChain, subnet_id: SubnetId
    ) -> CommandResult | Sequence[Precondition]:
        from subnet.account import conditions, registration

        if signing.dry_run:
            return await conditions.check_activate_subnet(
                chain, subnet_id=subnet_id, owner=key.account_id
            )
        outcome = await registration.activate_subnet(chain, subnet_id=subnet_id, owner=key)
        if not outcome.is_active:
            raise ConfigError(
                f"the chain removed subnet {subnet_id} instead of activating it",
                "its time for activation is over: register it again",
            )
        block = outcome.receipt.block_number
        return CommandResult(
            {"subnet_id": subnet_id, "block": block},
            f"subnet {subnet_id} is active since block {block}",
        )

    signing.give_outcome(signing.ask_subnet(subnet, work))
