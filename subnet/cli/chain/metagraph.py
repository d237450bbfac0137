"""``mesh chain metagraph``: every node of a subnet in one table, kept in a file if wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import (
    DEFAULT_CHAIN,
    AsJson,
    Chain,
    format_amount,
    open_chain,
    require_subnet,
    run,
)
from subnet.cli.console import emit, say
from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from subnet.account.metagraph import Metagraph


def metagraph(
    subnet: Annotated[
        str | None, typer.Option("--subnet", help="The subnet's id, friendly id or name.")
    ] = None,
    at_block: Annotated[
        int | None, typer.Option("--at", min=0, help="Block number; the head if absent.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    load: Annotated[Path | None, typer.Option(help="Read it from this file instead.")] = None,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show every node of a subnet: class, stake, reputation, last score, peer id."""
    if (subnet is None) == (load is None):
        raise UsageError("a metagraph comes from one place", "give --subnet, or --load FILE")
    if load is not None:
        from subnet.account.metagraph import Metagraph

        graph = Metagraph.load(load)
    else:
        graph = _fetch(chain, str(subnet), at_block)
    if save is not None:
        graph.save(save)
        say(f"wrote {save}")
    if as_json:
        emit(json.dumps(graph.to_json()))
    else:
        _print_table(graph)


def _fetch(chain: str, subnet: str, at_block: int | None) -> Metagraph:
    async def work() -> Metagraph | None:
        from consensus.types import BlockNumber
        from subnet.account.metagraph import fetch_metagraph

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            number = None if at_block is None else BlockNumber(at_block)
            return await fetch_metagraph(client, subnet_id, at_block=number)

    graph = run(work)
    if graph is None:
        raise ConfigError(f"there is no subnet {subnet!r} at that block", "choose a later --at")
    return graph


def _print_table(graph: Metagraph) -> None:
    from consensus.types import NodeClass

    emit(f"subnet {graph.subnet_id} {graph.name} at block {graph.block}")
    emit("node  class       start  stake       reputation  score       attested  peer id")
    for row in range(len(graph)):
        name = "Queued" if graph.is_queued[row] else NodeClass(graph.classes[row]).name.capitalize()
        score = int(graph.scores[row])
        emit(
            f"{graph.node_ids[row]:<5} {name:<11} {graph.start_epochs[row]:<6}"
            f" {format_amount(int(graph.stakes[row])):<11.11}"
            f" {format_amount(int(graph.reputations[row])):<11.11}"
            f" {'-' if score < 0 else format_amount(score):<11.11}"
            f" {'yes' if graph.attested[row] else 'no':<9}"
            f" {graph.peer_ids[row] or 'not Ed25519'}"
        )
