"""``mesh doctor``: can this node earn, and if not, what is the one thing to do?"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.cli.console import EXIT_FAILURE, emit, say
from subnet.cli.options import AnySubnet, DataDir, Offline
from subnet.cli.subnets import find_own_subnet_id, find_subnet_id
from subnet.errors import UsageError

if TYPE_CHECKING:
    from subnet.doctor.dry_scores import DryScore
    from subnet.doctor.examine import Request
    from subnet.doctor.finding import Outcome

WIDTH = 80
NAME_WIDTH = 12


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(help="The model, as for mesh-test; a running node knows its own."),
    ] = None,
    data_dir: DataDir = None,
    identity_path: Annotated[
        Path | None, typer.Option(help="The identity file, where no node runs: peer_id.key.")
    ] = None,
    hotkey_path: Annotated[
        Path | None, typer.Option(help="The hotkey's keystore, where no node runs.")
    ] = None,
    subnet: AnySubnet = None,
    node: Annotated[
        int | None, typer.Option(min=1, help="The node's id, if several are here.")
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(envvar="MESH_CHAIN", help="The chain's address, where no node runs."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The port that a node will use, where none runs."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --dry-node one an epoch.")
    ] = False,
    dry_node: Annotated[
        bool,
        typer.Option(
            "--dry-node",
            help="Before registering: say of each epoch what MODEL here would have scored.",
        ),
    ] = False,
    epochs: Annotated[
        int, typer.Option(min=0, help="With --dry-node: how many epochs; 0: until Ctrl-C.")
    ] = 0,
    block_indices: Annotated[
        str | None, typer.Option(help="With --dry-node: as for mesh-test, START:END.")
    ] = None,
    device: Annotated[str, typer.Option(help="With --dry-node: cpu, cuda or cuda:N.")] = "cpu",
    offline: Offline = False,
    initial_peers: Annotated[
        list[str] | None, typer.Option(help="With --dry-node: peers to dial. Else the chain's.")
    ] = None,
) -> None:
    """Check everything that a node needs to earn; exit 1 if a check fails.

    A running node is asked over its control socket for what only it can check. Nothing is signed.
    """
    if dry_node:
        values = {"device": device, "initial_peers": tuple(initial_peers or ())}
        _run_dry_node(
            model,
            subnet,
            chain,
            values,
            block_indices=block_indices,
            epochs=epochs,
            as_json=as_json,
        )
        return
    import asyncio

    from platformdirs import user_data_path

    from subnet.doctor.examine import Request

    request = Request(
        data_dir=data_dir or user_data_path("mesh"),
        identity_path=identity_path,
        hotkey_path=hotkey_path,
        chain_url=chain,
        subnet_id=find_own_subnet_id(subnet, chain, data_dir),
        node_id=node,
        model=model,
        port=port,
    )
    outcomes = asyncio.run(_examine(request, as_json=as_json))
    statuses = Counter(str(outcome.finding.status) for outcome in outcomes)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    if as_json:
        body = {"checks": [outcome.to_json() for outcome in outcomes], "counts": dict(statuses)}
        emit(json.dumps(body))
    else:
        say(f"{len(outcomes)} checks: {counts}")
    if statuses["FAIL"]:
        raise typer.Exit(EXIT_FAILURE)


def _run_dry_node(
    model: str | None,
    subnet: str | None,
    chain: str | None,
    values: dict[str, Any],
    *,
    block_indices: str | None,
    epochs: int,
    as_json: bool,
) -> None:
    """Print a line for each epoch. Raises UsageError and what the dry node raises."""
    import asyncio

    from subnet.chain.endpoints import DEFAULT_CHAIN_URL
    from subnet.cli.mesh_test_command import parse_config
    from subnet.operator.interrupts import run_interruptible

    if model is None or subnet is None:
        raise UsageError(
            "--dry-node needs MODEL and --subnet",
            "write `mesh doctor MODEL --dry-node --subnet NAME`",
        )
    named = {"model": model, "identity_path": Path(), "chain_url": chain or DEFAULT_CHAIN_URL}
    config = parse_config(
        {**values, **named}, hoster=True, validator=False, block_indices=block_indices
    )
    subnet_id = find_subnet_id(subnet, chain)
    assert subnet_id is not None
    from subnet.doctor.dry_node import run_dry_node
    from subnet.operator.logs import LogOptions, configure_logs

    configure_logs(LogOptions(level="warning"))
    shown = 0

    def show(score: DryScore) -> bool:
        nonlocal shown
        shown += 1
        emit(json.dumps(score.to_json()) if as_json else score.describe())
        return not epochs or shown < epochs

    asyncio.run(run_interruptible(run_dry_node(config, subnet_id, on_step=say, on_score=show)))


async def _examine(request: Request, *, as_json: bool) -> list[Outcome]:
    """Make all checks; show each as soon as it has ended."""
    from subnet.doctor.checks import run_checks
    from subnet.doctor.examine import open_subject

    outcomes = []
    async with open_subject(request) as subject:
        async for outcome in run_checks(subject):
            outcomes.append(outcome)
            if not as_json:
                emit(describe(outcome))
    return outcomes


def describe(outcome: Outcome) -> str:
    """Return one check in lines of at most WIDTH characters, as far as its words are short."""
    finding = outcome.finding
    head = f"{finding.status:<5} {outcome.name:<{NAME_WIDTH}} "
    paragraphs = [finding.detail, f"fix: {finding.fix}"] if finding.fix else [finding.detail]
    lines = []
    for number, text in enumerate(paragraphs):
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=" " * len(head) if number else head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
