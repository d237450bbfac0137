"""``mesh chain show``: a subnet, its nodes, its epoch and what was proposed in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.account.amounts import format_amount
from subnet.cli.chain.options import AtBlock, CommandResult, Reading, expand_options
from subnet.cli.console import say
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from consensus.submission import Submission
    from consensus.types import SubnetId
    from subnet.account.overview import NodeOverview, SubnetOverview, SubnetSummary
    from subnet.account.registration import RegisteredNode
    from subnet.chain.substrate import SubstrateChain

PERCENT = 100


@expand_options
def show(
    subnet: Annotated[
        str | None,
        typer.Option("--subnet", help="The subnet's id, friendly id or name; all if absent."),
    ] = None,
    at_block: AtBlock = None,
    *,
    reading: Reading,
) -> None:
    """Show a subnet: its nodes, epoch and phase, the elected validator and the proposal.

    Without --subnet, list the subnets of the chain.
    """
    if subnet is None:
        _list_subnets(reading, at_block)
        return
    overview = ask_overview(reading, subnet, at_block=at_block)
    reading.give(CommandResult(describe(overview), _show_overview(overview)))


def ask_overview(reading: Reading, subnet: str, *, at_block: int | None = None) -> SubnetOverview:
    """Return the subnet at a block, the head by default.

    Raises UnknownSubnet; ConfigError where the subnet did not exist at that block.
    """

    async def work(chain: SubstrateChain, subnet_id: SubnetId) -> SubnetOverview | None:
        from consensus.types import BlockNumber
        from subnet.account.overview import fetch_overview

        number = None if at_block is None else BlockNumber(at_block)
        return await fetch_overview(chain, subnet_id, at_block=number)

    overview = reading.ask_subnet(subnet, work)
    if overview is None:
        raise ConfigError(f"there is no subnet {subnet!r} at that block", "choose a later --at")
    return overview


def _list_subnets(reading: Reading, at_block: int | None) -> None:
    async def work(chain: SubstrateChain) -> tuple[SubnetSummary, ...]:
        from consensus.types import BlockNumber
        from subnet.account.overview import fetch_subnets

        number = None if at_block is None else BlockNumber(at_block)
        return await fetch_subnets(chain, at_block=number)

    found = reading.ask(work)
    if not found and not reading.as_json:
        say(f"{reading.chain} has no subnet; `mesh chain register-subnet` makes one")
        return
    rows = [
        {"subnet_id": one.subnet_id, "friendly_id": one.friendly_id, "name": one.name}
        | {"state": one.state}
        for one in found
    ]
    lines = [
        f"{one.subnet_id}  {one.friendly_id or '-':<4} {one.state:<10} {one.name}" for one in found
    ]
    reading.give(CommandResult({"subnets": rows}, "\n".join(lines)))


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
        else describe_submission(submission) | {"attestation_ratio": overview.attestation_ratio},
        "nodes": [describe_node(row) for row in overview.nodes],
    }


def describe_submission(found: Submission) -> dict[str, Any]:
    """Return a proposal and its attestations as JSON values."""
    return {
        "proposer": found.proposer,
        "block": found.block,
        "scores": [[node_id, str(score)] for node_id, score in found.scores],
        "attested": sorted(found.attested),
        "args": None if found.args is None else f"0x{found.args.hex()}",
        "prioritize_queue_node_id": found.prioritize_queue_node_id,
        "remove_queue_node_id": found.remove_queue_node_id,
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


def name_class(node: RegisteredNode) -> str:
    """Return the node's class as the pallet spells it; Queued while it waits."""
    return "Queued" if node.is_queued else node.node_class.name.capitalize()


def _show_overview(overview: SubnetOverview) -> str:
    subnet, position, submission = overview.subnet, overview.position, overview.submission
    lines = [
        f"subnet      {subnet.subnet_id} {subnet.name} ({overview.state})",
        f"block       {overview.head.number}",
    ]
    if position is None or overview.phase is None:
        lines.append("epoch       none: the subnet has no slot")
    else:
        lines += [
            f"epoch       {position.epoch}, block {position.offset} of {position.length},"
            f" phase {overview.phase.value}{show_time_left(overview)}",
            f"elected     {'nobody' if overview.elected is None else overview.elected}",
        ]
    if submission is None:
        lines.append("proposal    none in this epoch")
    else:
        ratio = overview.attestation_ratio
        share = "" if ratio is None else f" ({ratio * PERCENT:.0f} %)"
        attested = ", ".join(str(node_id) for node_id in sorted(submission.attested))
        lines += [
            f"proposal    by {submission.proposer} in block {submission.block}",
            f"attested    {attested}{share}",
        ]
    scores = {} if submission is None else dict(submission.scores)
    lines.append("node  class       start  stake      score                 peer id")
    for row in overview.nodes:
        node = row.node
        lines.append(
            f"{node.node_id:<5} {name_class(node):<11} {node.start_epoch:<6}"
            f" {format_amount(row.stake):<10.10} {scores.get(node.node_id, '-')!s:<21}"
            f" {node.peer_id or 'not Ed25519'}"
        )
    return "\n".join(lines)


def show_time_left(overview: SubnetOverview) -> str:
    """Return ", 12 s left"; nothing where the pace of blocks is not known."""
    return "" if overview.seconds_left is None else f", {overview.seconds_left:.0f} s left"
