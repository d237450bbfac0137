"""``mesh chain metagraph``: every node of a subnet in one table, kept in a file if wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import AtBlock, CommandResult, Reading, expand_options
from subnet.cli.console import say
from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from subnet.account.metagraph import Metagraph
    from subnet.chain.substrate import SubstrateChain


@expand_options
def metagraph(
    subnet: Annotated[
        str | None, typer.Option("--subnet", help="The subnet's id, friendly id or name.")
    ] = None,
    at_block: AtBlock = None,
    save: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    load: Annotated[Path | None, typer.Option(help="Read it from this file instead.")] = None,
    *,
    reading: Reading,
) -> None:
    """Show every node of a subnet: class, stake, reputation, last score, peer id."""
    if (subnet is None) == (load is None):
        raise UsageError("a metagraph comes from one place", "give --subnet, or --load FILE")
    if load is not None:
        from subnet.account.metagraph import Metagraph

        graph = Metagraph.load(load)
    else:
        graph = _fetch(reading, str(subnet), at_block)
    if save is not None:
        graph.save(save)
        say(f"wrote {save}")
    reading.give(CommandResult(graph.to_json(), _show_table(graph)))


def _fetch(reading: Reading, subnet: str, at_block: int | None) -> Metagraph:
    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> Metagraph | None:
        from consensus.types import BlockNumber
        from subnet.account.metagraph import fetch_metagraph

        number = None if at_block is None else BlockNumber(at_block)
        return await fetch_metagraph(chain, subnet_id, at_block=number)

    graph = reading.ask_subnet(subnet, work)
    if graph is None:
        raise ConfigError(f"there is no subnet {subnet!r} at that block", "choose a later --at")
    return graph


def _show_table(graph: Metagraph) -> str:
    from consensus.types import NodeClass

    lines = [
        f"subnet {graph.subnet_id} {graph.name} at block {graph.block}",
        "node  class       start  stake       reputation  score       attested  peer id",
    ]
    for row in range(len(graph)):
        name = "Queued" if graph.is_queued[row] else NodeClass(graph.classes[row]).name.capitalize()
        score = int(graph.scores[row])
        lines.append(
            f"{graph.node_ids[row]:<5} {name:<11} {graph.start_epochs[row]:<6}"
            f" {format_amount(int(graph.stakes[row])):<11.11}"
            f" {format_amount(int(graph.reputations[row])):<11.11}"
            f" {'-' if score < 0 else format_amount(score):<11.11}"
            f" {'yes' if graph.attested[row] else 'no':<9}"
            f" {graph.peer_ids[row] or 'not Ed25519'}"
        )
    return "\n".join(lines)
