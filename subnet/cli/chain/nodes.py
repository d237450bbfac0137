"""``mesh chain nodes``, ``node``, ``queue``, ``elected`` and ``submission``: parts of ``show``."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from subnet.cli.chain.show import describe_node
from subnet.cli.console import emit
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from consensus.submission import Submission
    from subnet.account.overview import NodeOverview, SubnetOverview
    from subnet.account.queue import QueuedNode

NodeId = Annotated[int, typer.Option("--node-id", min=1, help="The node's id in the subnet.")]


def nodes(subnet: Subnet, chain: Chain = DEFAULT_CHAIN, as_json: AsJson = False) -> None:
    """List the nodes of a subnet, activated and queued."""
    rows = _fetch_overview(subnet, chain).nodes
    if as_json:
        emit(json.dumps({"nodes": [describe_node(row) for row in rows]}))
        return
    for row in rows:
        emit(f"{row.node.node_id:<5} {_name_class(row):<11} {row.node.peer_id or 'not Ed25519'}")


def node(
    subnet: Subnet, node_id: NodeId, chain: Chain = DEFAULT_CHAIN, as_json: AsJson = False
) -> None:
    """Show one node: class, peer id, accounts, stake and reputation."""
    overview = _fetch_overview(subnet, chain)
    found = next((row for row in overview.nodes if row.node.node_id == node_id), None)
    if found is None:
        raise ConfigError(
            f"subnet {overview.subnet.subnet_id} has no node {node_id}",
            "`mesh chain nodes` lists those that it has",
        )
    if as_json:
        emit(json.dumps(describe_node(found)))
        return
    emit(f"node        {node_id}, {_name_class(found)} from epoch {found.node.start_epoch} on")
    emit(f"peer id     {found.node.peer_id or 'not Ed25519'}")
    emit(f"hotkey      0x{found.node.hotkey.hex()}")
    emit(f"coldkey     0x{found.coldkey.hex()}")
    emit(f"stake       {format_amount(found.stake)} TENSOR")
    emit(f"reputation  {format_amount(found.reputation)}")


def queue(subnet: Subnet, chain: Chain = DEFAULT_CHAIN, as_json: AsJson = False) -> None:
    """List the nodes that wait to be activated, front first, and the epoch they wait for."""

    async def work() -> Sequence[QueuedNode]:
        from subnet.account.queue import fetch_queue

        async with open_chain(chain) as client:
            return await fetch_queue(client, await require_subnet(client, subnet))

    rows = run(work)
    if as_json:
        emit(json.dumps({"queue": [_describe_queued(row) for row in rows]}))
        return
    if not rows:
        emit("nobody waits")
    for place, row in enumerate(rows, start=1):
        emit(
            f"{place:<4} node {row.node.node_id}, activated from epoch {row.earliest_epoch} on,"
            f" {row.node.peer_id or 'not Ed25519'}"
        )


def elected(subnet: Subnet, chain: Chain = DEFAULT_CHAIN, as_json: AsJson = False) -> None:
    """Show which node is elected to propose in the present epoch."""
    overview = _fetch_overview(subnet, chain)
    epoch = None if overview.position is None else overview.position.epoch
    if as_json:
        emit(json.dumps({"epoch": epoch, "elected": overview.elected}))
    else:
        emit(f"epoch {epoch}: {'nobody' if overview.elected is None else overview.elected}")


def submission(
    subnet: Subnet,
    epoch: Annotated[
        int | None, typer.Option("--epoch", min=0, help="Subnet epoch; the present one if absent.")
    ] = None,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show what was proposed in an epoch, and who attested it."""

    async def work() -> Submission | None:
        from consensus.types import Epoch
        from subnet.account.overview import fetch_overview

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            if epoch is not None:
                return await client.fetch_submission(subnet_id, Epoch(epoch))
            overview = await fetch_overview(client, subnet_id)
            return None if overview is None else overview.submission

    found = run(work)
    if as_json:
        emit(json.dumps({"submission": None if found is None else _describe_submission(found)}))
    elif found is None:
        emit("nothing was proposed")
    else:
        emit(f"proposed by node {found.proposer} in block {found.block}")
        emit(f"attested by {', '.join(str(node_id) for node_id in sorted(found.attested))}")
        for node_id, score in found.scores:
            emit(f"{node_id:<5} {score}")


def _fetch_overview(subnet: str, chain: str) -> SubnetOverview:
    async def work() -> SubnetOverview | None:
        from subnet.account.overview import fetch_overview

        async with open_chain(chain) as client:
            return await fetch_overview(client, await require_subnet(client, subnet))

    overview = run(work)
    if overview is None:
        raise ConfigError(f"the chain has no subnet {subnet!r}", "check --subnet and --chain")
    return overview


def _name_class(row: NodeOverview) -> str:
    return "Queued" if row.node.is_queued else row.node.node_class.name.capitalize()


def _describe_queued(row: QueuedNode) -> dict[str, Any]:
    return {
        "subnet_node_id": row.node.node_id,
        "start_epoch": row.node.start_epoch,
        "earliest_epoch": row.earliest_epoch,
        "removable_from": row.removable_from,
        "peer_id": None if row.node.peer_id is None else str(row.node.peer_id),
        "hotkey": f"0x{row.node.hotkey.hex()}",
    }


def _describe_submission(found: Submission) -> dict[str, Any]:
    return {
        "proposer": found.proposer,
        "block": found.block,
        "scores": [[node_id, str(score)] for node_id, score in found.scores],
        "attested": sorted(found.attested),
    }
