"""``mesh earnings``: what a node earned and lost, epoch by epoch, and what comes next."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.progress import Step, ignore_step, track
from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit, say
from subnet.cli.options import AnySubnet, Chain, DataDir
from subnet.errors import ChainUnavailable, ConfigError

if TYPE_CHECKING:
    from consensus.types import SubnetId, SubnetNodeId
    from subnet.account.earnings import Absence, EpochEarnings
    from subnet.account.standing import Standing
    from subnet.chain.substrate import SubstrateChain
    from subnet.receipts.folders import NodeFolder

DEFAULT_EPOCHS = 12
MAX_EPOCHS = 1000
MANY_EPOCHS = 50
"""From so many on, how far the reading is gets told."""
WIDTH = 80


def earnings(
    node: Annotated[
        int | None,
        typer.Argument(metavar="NODE", min=1, help="Any node's id; this machine's if absent."),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, max=MAX_EPOCHS, help="How many scored epochs to show.")
    ] = DEFAULT_EPOCHS,
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="The newest scored epoch to show; the last settled if absent."),
    ] = None,
    data_dir: DataDir = None,
    subnet: AnySubnet = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a node earned and lost in each epoch, in TENSOR, and what it waits for."""
    from platformdirs import user_data_path

    wanted = _find_wanted(data_dir or user_data_path("mesh"), node, subnet)
    try:
        found = _ask(chain, wanted, count=epochs, epoch=epoch)
    except ChainUnavailable as error:
        if wanted.folder is None:
            raise
        say(f"the chain does not answer: {error}")
        found = _read_kept(wanted.folder, count=epochs, epoch=epoch)
    emit(json.dumps(render(found)) if as_json else describe(found))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which node is asked about; ``folder`` is its data on this machine, None if it has none."""

    subnet: str
    node_id: SubnetNodeId
    folder: NodeFolder | None


@dataclass(frozen=True, slots=True)
class EarningsReport:
    """What is shown. ``standing`` and ``absence`` are None where the chain does not answer.

    ``kept`` are the epochs whose rows only the node's own book has.
    """

    subnet_id: SubnetId
    node_id: SubnetNodeId
    rows: tuple[EpochEarnings, ...]
    kept: frozenset[int]
    missing: str | None
    standing: Standing | None
    absence: Absence | None


def _find_wanted(data_dir: Path, node: int | None, subnet: str | None) -> _Wanted:
    """Return the node that is asked for, or the only one of this machine.

    Raises ConfigError or UsageError where none is named and none is here, or several are.
    """
    from consensus.types import SubnetNodeId
    from subnet.errors import UsageError
    from subnet.receipts.folders import find_folders

    subnet_id = int(subnet) if subnet is not None and subnet.isdecimal() else None
    is_named = subnet is not None and subnet_id is None
    if is_named and node is not None:
        return _Wanted(str(subnet), SubnetNodeId(node), None)
    try:
        folders = find_folders(data_dir, subnet_id)
    except ConfigError as error:
        if node is not None and subnet is not None:
            return _Wanted(subnet, SubnetNodeId(node), None)
        raise ConfigError(str(error), "name NODE and --subnet, or give --data-dir") from None
    subnets = {folder.subnet_id for folder in folders}
    own = [folder for folder in folders if node in (None, folder.node_id)]
    if len(own) == 1 and not is_named:
        return _Wanted(str(own[0].subnet_id), own[0].node_id, own[0])
    if node is not None and not own and len(subnets) == 1:
        # Any node of the subnet can be asked about; only its own book is not here.
        return _Wanted(str(min(subnets)), SubnetNodeId(node), None)
    names = ", ".join(folder.path.name for folder in folders)
    raise UsageError(
        f"which node is meant is not clear: here are {names} (SUBNET-NODE)",
        "name NODE and --subnet",
    )


def _track(count: int) -> AbstractContextManager[Step]:
    """Report how many epochs are read, if they are so many that it takes long."""
    if count < MANY_EPOCHS:
        return nullcontext(ignore_step)
    return track("reading settled epochs", total=count, unit="epochs")


def _ask(url: str, wanted: _Wanted, *, count: int, epoch: int | None) -> EarningsReport:
    """Return what the chain says, and of older epochs what the node has kept."""
    import asyncio

    from consensus.types import Epoch
    from subnet.account.earnings import compute_absence, fetch_earnings
    from subnet.account.earnings_book import read_book, select_older
    from subnet.account.standing import fetch_standing
    from subnet.chain.substrate import SubstrateChain
    from subnet.cli.chain.options import require_subnet
    from subnet.cli.console import say_if_slow

    async def work() -> EarningsReport:
        async with SubstrateChain.open(url) as chain:
            node_id = wanted.node_id
            subnet_id = await require_subnet(chain, wanted.subnet)
            with say_if_slow("reading the settled epochs"), _track(count) as step:
                standing = await _find_standing(chain, subnet_id, node_id)
                last = None if epoch is None else Epoch(epoch)
                found = await fetch_earnings(
                    chain, subnet_id, node_id, count=count, last=last, step=step
                )
                if standing is None and not any(row.stake or row.gain for row in found.rows):
                    await fetch_standing(chain, subnet_id, node_id)
        kept = () if wanted.folder is None else read_book(wanted.folder.path)
        older = select_older(kept, found.rows, count=count, last=last)
        return EarningsReport(
            subnet_id,
            node_id,
            (*found.rows, *older),
            frozenset(int(row.epoch) for row in older),
            found.missing if not older else None,
            standing,
            None if standing is None else compute_absence(standing, found.rows),
        )

    return asyncio.run(work())


async def _find_standing(
    chain: SubstrateChain, subnet_id: SubnetId, node_id: SubnetNodeId
) -> Standing | None:
    """Return where the node stands; None for one that the subnet does not have (any more)."""
    from subnet.account.standing import fetch_standing

    try:
        return await fetch_standing(chain, subnet_id, node_id)
    except ConfigError:
        return None


def _read_kept(folder: NodeFolder, *, count: int, epoch: int | None) -> EarningsReport:
    """Return what the node itself has kept. Raises ConfigError if that is nothing."""
    from subnet.account.earnings_book import read_book

    rows = read_book(folder.path)
    rows = tuple(row for row in rows if epoch is None or row.epoch <= epoch)[:count]
    if not rows:
        raise ConfigError(
            f"node {folder.node_id} has kept no earnings of these epochs",
            "give --chain an endpoint that answers",
        )
    kept = frozenset(int(row.epoch) for row in rows)
    return EarningsReport(folder.subnet_id, folder.node_id, rows, kept, None, None, None)


def render(found: EarningsReport) -> dict[str, Any]:
    """Return JSON values; amounts are decimal strings of units of 10^-18 TENSOR."""
    from subnet.account.earnings import render_row
    from subnet.account.standing import check_eligibility, describe_next_class

    standing, absence = found.standing, found.absence
    return {
        "subnet_id": found.subnet_id,
        "subnet_node_id": found.node_id,
        "rows": [
            render_row(row)
            | {"gain": str(row.gain), "difference": str(row.difference)}
            | {"source": "node" if row.epoch in found.kept else "chain"}
            for row in found.rows
        ],
        "missing": found.missing,
        "standing": None
        if standing is None
        else {
            "block": standing.head,
            "class": standing.class_name,
            "next": describe_next_class(standing),
            "stake": str(standing.stake),
            "reputation": str(standing.reputation),
            "eligibility": str(check_eligibility(standing)),
        },
        "away_an_hour": None
        if absence is None
        else {
            "epochs": absence.epochs,
            "pay": str(absence.pay),
            "elections": absence.elections,
            "proposing": str(absence.proposing),
            "reputation": str(absence.reputation),
            "removed_after_epochs": absence.removed_after,
        },
    }


def describe(found: EarningsReport) -> str:
    """Return the screen."""
    lines = [*_describe_standing(found), "", *_describe_rows(found)]
    if found.absence is not None and found.standing is not None:
        lines += ["", *_wrap(_describe_absence(found.absence, found.standing), "")]
    return "\n".join(lines)


def _describe_standing(found: EarningsReport) -> list[str]:
    from subnet.account.standing import check_eligibility, describe_next_class

    name, standing = f"node {found.node_id} of subnet {found.subnet_id}", found.standing
    if standing is None:
        is_kept = len(found.kept) == len(found.rows)
        return [f"{name}, as it has kept them itself" if is_kept else f"{name}, which it has left"]
    return [
        f"{name}, at chain block {standing.head}",
        *_wrap(f"class       {describe_next_class(standing)}", " " * 12),
        f"stake       {format_tensor(standing.stake)} TENSOR",
        f"reputation  {standing.reputation / 10**18:.6f}",
        *_wrap(f"next        {check_eligibility(standing)}", " " * 12),
    ]


def _describe_rows(found: EarningsReport) -> list[str]:
    rows = found.rows
    lines = [
        _join("Scored", "Settled", "Pay", "Proposing", "Slashed", "Stake", "Reputation"),
        _join("epoch", "in block", "TENSOR", "TENSOR", "TENSOR", "change", "after"),
    ]
    for row in rows:
        lines.append(_describe_row(row))
        for note in _list_notes(row):
            lines += _wrap(f"       {note}", " " * 9)
    total = sum(row.gain for row in rows)
    lines.append(
        _join(
            "sum",
            "",
            format_tensor(sum(row.paid for row in rows)),
            format_tensor(sum(row.proposing or 0 for row in rows)),
            format_tensor(sum(row.slashed for row in rows)),
            format_tensor(total, sign=True),
            "",
        ).rstrip()
    )
    lines += _compare_balances(rows)
    if found.kept and found.standing is not None:
        lines.append(f"epochs up to {max(found.kept)}: as the node has kept them")
    if found.missing is not None:
        lines += _wrap(f"no older epochs: {found.missing}", "  ")
    return lines


def _compare_balances(rows: tuple[EpochEarnings, ...]) -> list[str]:
    """Return whether the stake changed in these blocks by what the rows say."""
    wrong = [row for row in rows if row.difference]
    if wrong:
        amount = format_tensor(wrong[0].difference, sign=True)
        return _wrap(
            f"differs from the chain: in block {wrong[0].block} the stake changed by {amount}"
            " TENSOR more than the events say",
            "  ",
        )
    compared = any(row.stake is not None for row in rows)
    return ["equals the chain: the node's stake changed by just that"] if compared else []


def _describe_row(row: EpochEarnings) -> str:
    change = None if row.stake is None else row.stake.after - row.stake.before
    return _join(
        str(row.epoch),
        str(row.block),
        format_tensor(row.paid),
        _show(row.proposing),
        format_tensor(row.slashed) if row.slashed else "-",
        _show(change, sign=True),
        f"{row.reputation[-1].after / 10**18:.6f}" if row.reputation else "unchanged",
    )


def _join(*cells: str) -> str:
    epoch, block, *amounts = cells
    return f"{epoch:<7}{block:<9}" + "".join(f"{amount:>12}" for amount in amounts)


def _list_notes(row: EpochEarnings) -> list[str]:
    from subnet.account.earnings import NOT_LISTED

    notes = []
    if not row.paid:
        notes.append(f"not paid: {row.shortfall or row.unpaid or NOT_LISTED}")
    if row.proposing == 0:
        notes.append(f"elected in epoch {row.epoch + 1}, and not paid for proposing")
    for step in row.reputation:
        if step.after < step.before:
            notes.append(
                f"reputation {step.before / 10**18:.6f} -> {step.after / 10**18:.6f}: {step.cause}"
            )
    if row.shared:
        notes.append(f"{format_tensor(row.shared)} TENSOR went to its delegators")
    if row.stake is not None and row.stake.moved:
        notes.append(f"its owner moved {format_tensor(row.stake.moved, sign=True)} TENSOR of stake")
    if row.promoted is not None:
        notes.append(f"became {row.promoted}")
    if row.is_removed:
        notes.append("the chain removed it from the subnet")
    return notes


def _describe_absence(absence: Absence, standing: Standing) -> str:
    from subnet.account.eligibility import ONE

    text = f"An hour away now ({absence.epochs} epochs of {standing.epoch_s:.0f} s)"
    if absence.removed_after is not None:
        minutes = absence.removed_after * standing.epoch_s / 60
        text += (
            f" costs the node its place: after {absence.removed_after} epochs ({minutes:.0f}"
            f" minutes) its reputation is below {standing.min_reputation / ONE:.3f}, and the chain"
            " removes it. An hour's work earns"
        )
    elif absence.reputation < standing.reputation:
        text += (
            f" takes the reputation from {standing.reputation / ONE:.3f} to"
            f" {absence.reputation / ONE:.3f}. It earns nothing of"
        )
    else:
        return f"{text} costs nothing of what is scored: the node is not scored yet."
    return (
        f"{text} about {format_tensor(absence.pay)} TENSOR of pay and, with"
        f" {absence.elections:.1f} elections, about {format_tensor(absence.proposing)} TENSOR for"
        " proposing."
    )


def _show(units: int | None, *, sign: bool = False) -> str:
    return "-" if units is None else format_tensor(units, sign=sign)


def format_tensor(units: int, *, sign: bool = False) -> str:
    """Return units of 10^-18 as TENSOR with six decimals, cut off, not rounded."""
    whole, rest = divmod(abs(units), 10**18)
    mark = "-" if units < 0 else "+" if sign and units else ""
    return f"{mark}{whole}.{rest // 10**12:06d}"


def _wrap(text: str, indent: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
