"""``mesh chain epoch``, ``rewards`` and ``watch``: what happens in a subnet, and when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.cli.chain.options import (
    DEFAULT_CHAIN,
    AsJson,
    Chain,
    Subnet,
    format_amount,
    open_chain,
    require_subnet,
    run,
)
from subnet.cli.chain.show import describe
from subnet.cli.console import emit
from subnet.errors import ConfigError, UnknownSubnet

if TYPE_CHECKING:
    from subnet.account.overview import SubnetOverview
    from subnet.account.rewards import EpochRewards


def epoch(subnet: Subnet, chain: Chain = DEFAULT_CHAIN, as_json: AsJson = False) -> None:
    """Show where the subnet's epoch stands: block, phase, seconds left, who is elected."""

    async def work() -> SubnetOverview | None:
        from subnet.account.overview import fetch_overview

        async with open_chain(chain) as client:
            return await fetch_overview(client, await require_subnet(client, subnet))

    overview = run(work)
    if overview is None:
        raise UnknownSubnet(f"the chain has no subnet {subnet!r}")
    emit(json.dumps(describe(overview)["epoch"]) if as_json else _summarise(overview))


def watch(
    subnet: Subnet,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="End after so many heads; never if absent.")
    ] = None,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Follow the subnet, a line for each new block."""

    async def work() -> None:
        from subnet.account.overview import fetch_overview

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            seen = 0
            async for head in client.heads():
                overview = await fetch_overview(client, subnet_id, at_block=head.number)
                if overview is None:
                    raise ConfigError(f"the chain removed subnet {subnet_id}", "register it again")
                emit(json.dumps(describe(overview)) if as_json else _summarise(overview))
                seen += 1
                if seen == blocks:
                    return

    run(work)


def rewards(
    subnet: Subnet,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=0, help="A subnet epoch that is over; the last if absent."),
    ] = None,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show what an epoch paid: rewards, slashes and reputations, from the chain's events."""

    async def work() -> None:
        from consensus.types import Epoch
        from subnet.account.rewards import fetch_rewards

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            paid = await fetch_rewards(client, subnet_id, None if epoch is None else Epoch(epoch))
        if as_json:
            emit(json.dumps(_describe_rewards(paid)))
        else:
            _print_rewards(paid)

    run(work)


def _describe_rewards(paid: EpochRewards) -> dict[str, Any]:
    return {
        "subnet_id": paid.subnet_id,
        "epoch": paid.epoch,
        "block": paid.block,
        "agreed": paid.is_agreed,
        "nodes": [[node_id, str(amount)] for node_id, amount in paid.nodes.items()],
        "delegators": str(paid.delegators),
        "slashed": [[f"0x{who.hex()}", str(amount)] for who, amount in paid.slashed.items()],
        "reputations": [
            [node_id, str(was), str(now)] for node_id, (was, now) in paid.reputations.items()
        ],
    }


def _print_rewards(paid: EpochRewards) -> None:
    verdict = "agreed" if paid.is_agreed else "not agreed"
    emit(f"epoch {paid.epoch}, settled in block {paid.block}: {verdict}")
    for node_id, amount in paid.nodes.items():
        emit(f"node {node_id}: {format_amount(amount)} TENSOR")
    for account, amount in paid.slashed.items():
        emit(f"slashed 0x{account.hex()}: {format_amount(amount)} TENSOR")
    for node_id, (was, now) in paid.reputations.items():
        emit(f"reputation of node {node_id}: {format_amount(was)} -> {format_amount(now)}")


def _summarise(overview: SubnetOverview) -> str:
    position = overview.position
    if position is None or overview.phase is None:
        return f"block {overview.head.number}: {overview.state}, no slot yet"
    left = "" if overview.seconds_left is None else f", {overview.seconds_left:.0f} s left"
    elected = "nobody" if overview.elected is None else f"node {overview.elected}"
    proposal = "nothing proposed"
    if overview.submission is not None:
        proposal = f"proposed, {len(overview.submission.attested)} attested"
    return (
        f"block {overview.head.number}: epoch {position.epoch} block {position.offset} of"
        f" {position.length} ({overview.phase.value}{left}), elected {elected}, {proposal}"
    )
