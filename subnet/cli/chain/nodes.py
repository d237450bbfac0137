"""``mesh chain nodes``, ``node``, ``queue``, ``elected`` and ``submission``: parts of ``show``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import CommandResult, Reading, expand_options
from subnet.cli.chain.show import (
    ask_overview,
    describe_node,
    describe_submission,
    name_class,
)
from subnet.cli.options import NodeId, Subnet
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from consensus.submission import Submission
    from consensus.types import SubnetId
    from subnet.account.queue import QueuedNode
    from subnet.chain.substrate import SubstrateChain


@expand_options
def nodes(subnet: Subnet, *, reading: Reading) -> None:
    """List the nodes of a subnet, activated and queued."""
    rows = ask_overview(reading, subnet).nodes
    lines = [
        f"{row.node.node_id:<5} {name_class(row.node):<11} {row.node.peer_id or 'not Ed25519'}"
        for row in rows
    ]
    reading.give(CommandResult({"nodes": [describe_node(row) for row in rows]}, "\n".join(lines)))


@expand_options
def node(subnet: Subnet, node_id: NodeId, *, reading: Reading) -> None:
    """Show one node: class, peer id, accounts, stake and reputation."""
    overview = ask_overview(reading, subnet)
    found = next((row for row in overview.nodes if row.node.node_id == node_id), None)
    if found is None:
        raise ConfigError(
            f"subnet {overview.subnet.subnet_id} has no node {node_id}",
            "`mesh chain nodes` lists those that it has",
        )
    start = found.node.start_epoch
    lines = [
        f"node        {node_id}, {name_class(found.node)} from epoch {start} on",
        f"peer id     {found.node.peer_id or 'not Ed25519'}",
        f"hotkey      0x{found.node.hotkey.hex()}",
        f"coldkey     0x{found.coldkey.hex()}",
        f"stake       {format_amount(found.stake)} TENSOR",
        f"reputation  {format_amount(found.reputation)}",
    ]
    reading.give(CommandResult(describe_node(found), "\n".join(lines)))


@expand_options
def queue(subnet: Subnet, *, reading: Reading) -> None:
    """List the nodes that wait to be activated, front first, and the epoch they wait for."""

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> Sequence[QueuedNode]:
        from subnet.account.queue import fetch_queue

        return await fetch_queue(chain, subnet_id)

    rows = reading.ask_subnet(subnet, work)
    lines = [
        f"{place:<4} node {row.node.node_id}, {_describe_wait(row)},"
        f" {row.node.peer_id or 'not Ed25519'}"
        for place, row in enumerate(rows, start=1)
    ]
    described = {"queue": [_describe_queued(row) for row in rows]}
    reading.give(CommandResult(described, "\n".join(lines) or "no node waits"))


@expand_options
def elected(subnet: Subnet, *, reading: Reading) -> None:
    """Show which node is elected to propose in the present epoch."""
    overview = ask_overview(reading, subnet)
    epoch = None if overview.position is None else overview.position.epoch
    name = "none" if overview.elected is None else overview.elected
    reading.give(
        CommandResult({"epoch": epoch, "elected": overview.elected}, f"epoch {epoch}: {name}")
    )


@expand_options
def submission(
    subnet: Subnet,
    epoch: Annotated[
        int | None, typer.Option("--epoch", min=0, help="Subnet epoch; the present one if absent.")
    ] = None,
    *,
    reading: Reading,
) -> None:
    """Show what was proposed in an epoch, and who attested it."""

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> Submission | None:
        from consensus.types import Epoch
        from subnet.account.overview import fetch_overview

        if epoch is not None:
            return await chain.fetch_submission(subnet_id, Epoch(epoch))
        overview = await fetch_overview(chain, subnet_id)
        return None if overview is None else overview.submission

    found = reading.ask_subnet(subnet, work)
    if found is None:
        reading.give(CommandResult({"submission": None}, "nothing was proposed"))
        return
    lines = [
        f"proposed by node {found.proposer} in block {found.block}",
        f"attested by {', '.join(str(node_id) for node_id in sorted(found.attested))}",
        *(f"{node_id:<5} {score}" for node_id, score in found.scores),
    ]
    reading.give(CommandResult({"submission": describe_submission(found)}, "\n".join(lines)))


def _describe_wait(row: QueuedNode) -> str:
    if row.last_epoch is None:
        return f"which the chain activates in epoch {row.earliest_epoch} or later"
    return (
        f"which its owner activates (`mesh chain activate-node`) in epochs {row.earliest_epoch} to"
        f" {row.last_epoch}"
    )


def _describe_queued(row: QueuedNode) -> dict[str, Any]:
    return {
        "subnet_node_id": row.node.node_id,
        "start_epoch": row.node.start_epoch,
        "earliest_epoch": row.earliest_epoch,
        "last_epoch": row.last_epoch,
        "removable_from": row.removable_from,
        "peer_id": None if row.node.peer_id is None else str(row.node.peer_id),
        "hotkey": f"0x{row.node.hotkey.hex()}",
    }
