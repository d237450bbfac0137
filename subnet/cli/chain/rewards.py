"""``mesh chain rewards``: what an epoch of a subnet paid, and why a node got nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import CommandResult, Reading, expand_options
from subnet.cli.options import Subnet

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from subnet.account.rewards import EpochRewards
    from subnet.chain.substrate import SubstrateChain


@expand_options
def rewards(
    subnet: Subnet,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=0, help="A subnet epoch that is over; the last if absent."),
    ] = None,
    *,
    reading: Reading,
) -> None:
    """Show what an epoch paid: rewards, slashes and reputations, from the chain's events."""

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> EpochRewards:
        from consensus.types import Epoch
        from subnet.account.rewards import fetch_rewards

        return await fetch_rewards(chain, subnet_id, None if epoch is None else Epoch(epoch))

    paid = reading.ask_subnet(subnet, work)
    reading.give(CommandResult(_describe_rewards(paid), _show_rewards(paid)))


def _describe_rewards(paid: EpochRewards) -> dict[str, Any]:
    return {
        "subnet_id": paid.subnet_id,
        "epoch": paid.epoch,
        "block": paid.block,
        "agreed": paid.is_agreed,
        "elected": paid.elected,
        "proposer": None
        if paid.proposer is None
        else [paid.proposer.node_id, str(paid.proposer.amount)],
        "nodes": [[node_id, str(amount)] for node_id, amount in paid.nodes.items()],
        "delegators": str(paid.delegators),
        "slashed": [[f"0x{who.hex()}", str(amount)] for who, amount in paid.slashed.items()],
        "reputations": [
            [node_id, str(was), str(now)] for node_id, (was, now) in paid.reputations.items()
        ],
        "causes": [
            [node_id, str(step.before), str(step.after), step.cause]
            for node_id, steps in paid.steps.items()
            for step in steps
        ],
        "unpaid": [[node_id, reason] for node_id, reason in paid.unpaid.items()],
        "shortfall": None
        if paid.shortfall is None
        else {"reason": paid.shortfall.reason, "fix": paid.shortfall.fix},
    }


def _show_rewards(paid: EpochRewards) -> str:
    verdict = "agreed" if paid.is_agreed else "not agreed"
    lines = [f"epoch {paid.epoch}, settled in block {paid.block}: {verdict}"]
    if paid.proposer is not None:
        reward = format_amount(paid.proposer.amount)
        lines.append(f"node {paid.proposer.node_id}: {reward} TENSOR for its proposal")
    for node_id, amount in paid.nodes.items():
        lines.append(f"node {node_id}: {format_amount(amount)} TENSOR")
    for node_id, reason in paid.unpaid.items():
        lines.append(f"node {node_id}: 0 TENSOR: {reason}")
    if paid.shortfall is not None:
        whom = "nobody but the proposer" if paid.is_agreed else "nobody"
        lines.append(f"{whom} was paid: {paid.shortfall.reason}")
        lines.append(f"fix: {paid.shortfall.fix}")
    for account, amount in paid.slashed.items():
        lines.append(f"slashed 0x{account.hex()}: {format_amount(amount)} TENSOR")
    for node_id, steps in paid.steps.items():
        for step in steps:
            lines.append(
                f"reputation of node {node_id}: {format_amount(step.before)} ->"
                f" {format_amount(step.after)}: {step.cause}"
            )
    return "\n".join(lines)
