"""``mesh chain show``: a subnet, its nodes, its epoch and what was proposed in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

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
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from subnet.account.overview import NodeOverview, SubnetOverview, SubnetSummary

PERCENT = 100


def show(
    subnet: Annotated[
        str | None,
        typer.Option("--subnet", help="The subnet's id, friendly id or name; all if absent."),
    ] = None,
    at_block: Annotated[
        int | None, typer.Option("--at", min=0, help="Block number; the head if absent.")
    ] = None,
    chain: Chain = DEFAULT_CHAIN,
    as_json: AsJson = False,
) -> None:
    """Show a subnet: its nodes, epoch and phase, the elected validator and the proposal.

    Without --subnet, list the subnets of the chain.
    """
    if subnet is None:
        _list_subnets(chain, at_block=at_block, as_json=as_json)
        return

    async def work() -> SubnetOverview | None:
        from consensus.types import BlockNumber
        from subnet.account.overview import fetch_overview

        async with open_chain(chain) as client:
            subnet_id = await require_subnet(client, subnet)
            number = None if at_block is None else BlockNumber(at_block)
            return await fetch_overview(client, subnet_id, at_block=number)

    overview = run(work)
    if overview is None:
        raise ConfigError(f"there is no subnet {subnet!r} at that block", "choose a later --at")
    if as_json:
        emit(json.dumps(describe(overview)))
    else:
        _print_overview(overview)


def _list_subnets(chain: str, *, at_block: int | None, as_json: bool) -> None:
    async def work() -> tuple[SubnetSummary, ...]:
        from consensus.types import BlockNumber
        from subnet.account.overview import fetch_subnets

        async with open_chain(chain) as client:
            number = None if at_block is None else BlockNumber(at_block)
            return await fetch_subnets(client, at_block=number)

    found = run(work)
    if as_json:
        rows = [
            {"subnet_id": one.subnet_id, "friendly_id": one.friendly_id, "name": one.name}
            | {"state": one.state}
            for one in found
        ]
        emit(json.dumps({"subnets": rows}))
        return
    for one in found:
        emit(f"{one.subnet_id}  {one.friendly_id or '-':<4} {one.state:<10} {one.name}")
    if not found:
        say(f"{chain} has no subnet; `mesh chain register-subnet` makes one")


def describe(overview: SubnetOverview) -> dict[str, Any]:
    """Return the overview as JSON values; amounts and scores are decimal strings of integers."""
    submission, position = overview.submission, overview.position
    return {
        "block": overview.head.number,
        "block_hash": f"0x{overview.head.block_hash.hex()}",
        "subnet": {
            "subnet_id": overview.subnet.subnet_id,
            "friendly_id": overview.friendly_id,
            "name": overview.subnet.name,
            "state": overview.state,
            "owner": None if overview.owner is None else f"0x{overview.owner.hex()}",
            "slot": overview.subnet.slot,
            "start_epoch": overview.subnet.start_epoch,
            "misc": overview.subnet.misc,
        },
        "epoch": None
        if position is None or overview.phase is None
        else {
            "epoch": position.epoch,
            "offset": position.offset,
            "length": position.length,
            "phase": overview.phase.value,
            "seconds_left": overview.seconds_left,
            "elected": overview.elected,
        },
        "submission": None
        if submission is None
        else {
            "proposer": submission.proposer,
            "block": submission.block,
            "scores": [[node_id, str(score)] for node_id, score in submission.scores],
            "attested": sorted(submission.attested),
            "attestation_ratio": overview.attestation_ratio,
        },
        "nodes": [describe_node(row) for row in overview.nodes],
    }


def describe_node(row: NodeOverview) -> dict[str, Any]:
    """Return one node as JSON values."""
    return {
        "subnet_node_id": row.node.node_id,
        "class": row.node.node_class.name.capitalize(),
        "is_queued": row.node.is_queued,
        "start_epoch": row.node.start_epoch,
        "peer_id": None if row.node.peer_id is None else str(row.node.peer_id),
        "hotkey": f"0x{row.node.hotkey.hex()}",
        "coldkey": f"0x{row.coldkey.hex()}",
        "stake": str(row.stake),
        "reputation": str(row.reputation),
    }


def _print_overview(overview: SubnetOverview) -> None:
    subnet, position, submission = overview.subnet, overview.position, overview.submission
    emit(f"subnet      {subnet.subnet_id} {subnet.name} ({overview.state})")
    emit(f"block       {overview.head.number}")
    if position is None or overview.phase is None:
        emit("epoch       none: the subnet has no slot")
    else:
        left = "" if overview.seconds_left is None else f", {overview.seconds_left:.0f} s left"
        emit(
            f"epoch       {position.epoch}, block {position.offset} of {position.length},"
            f" phase {overview.phase.value}{left}"
        )
        emit(f"elected     {'nobody' if overview.elected is None else overview.elected}")
    if submission is None:
        emit("proposal    none in this epoch")
    else:
        ratio = overview.attestation_ratio
        share = "" if ratio is None else f" ({ratio * PERCENT:.0f} %)"
        attested = ", ".join(str(node_id) for node_id in sorted(submission.attested))
        emit(f"proposal    by {submission.proposer} in block {submission.block}")
        emit(f"attested    {attested}{share}")
    scores = {} if submission is None else dict(submission.scores)
    emit("node  class       start  stake      score                 peer id")
    for row in overview.nodes:
        node = row.node
        name = "Queued" if node.is_queued else node.node_class.name.capitalize()
        emit(
            f"{node.node_id:<5} {name:<11} {node.start_epoch:<6}"
            f" {format_amount(row.stake):<10.10} {scores.get(node.node_id, '-')!s:<21}"
            f" {node.peer_id or 'not Ed25519'}"
        )
