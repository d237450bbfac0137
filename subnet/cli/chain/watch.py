"""``mesh chain epoch`` and ``watch``: where a subnet's epoch stands, once or at every block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import CommandResult, Reading, expand_options
from subnet.cli.chain.show import ask_overview, describe, show_time_left
from subnet.cli.options import Subnet
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from subnet.account.overview import SubnetOverview
    from subnet.chain.substrate import SubstrateChain


@expand_options
def epoch(subnet: Subnet, *, reading: Reading) -> None:
    """Show where the subnet's epoch stands: block, phase, seconds left, who is elected."""
    overview = ask_overview(reading, subnet)
    reading.give(CommandResult(describe(overview)["epoch"], _summarise(overview)))


@expand_options
def watch(
    subnet: Subnet,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="End after so many heads; never if absent.")
    ] = None,
    *,
    reading: Reading,
) -> None:
    """Follow the subnet, a line for each new block."""

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> None:
        from subnet.account.overview import fetch_overview

        seen = 0
        async for head in chain.heads():
            overview = await fetch_overview(chain, subnet_id, at_block=head.number)
            if overview is None:
                raise ConfigError(f"the chain removed subnet {subnet_id}", "register it again")
            reading.give(CommandResult(describe(overview), _summarise(overview)))
            seen += 1
            if seen == blocks:
                return

    reading.ask_subnet(subnet, work)


def _summarise(overview: SubnetOverview) -> str:
    position = overview.position
    if position is None or overview.phase is None:
        return f"block {overview.head.number}: {overview.state}, no slot yet"
    elected = "nobody" if overview.elected is None else f"node {overview.elected}"
    proposal = "nothing proposed"
    if overview.submission is not None:
        proposal = f"proposed, {len(overview.submission.attested)} attested"
    return (
        f"block {overview.head.number}: epoch {position.epoch} block {position.offset} of"
        f" {position.length} ({overview.phase.value}{show_time_left(overview)}),"
        f" elected {elected}, {proposal}"
    )
