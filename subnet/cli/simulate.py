"""``mesh simulate``: the protocol on simulated machines, with faults and cheats."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from subnet.cli.console import emit, say
from subnet.errors import ConfigError, UsageError

MIN_NODES, MAX_NODES = 4, 100


def simulate(
    epochs: Annotated[int, typer.Option(min=1, help="Epochs in all.")] = 20,
    nodes: Annotated[
        int, typer.Option(min=MIN_NODES, max=MAX_NODES, help="Nodes of the network.")
    ] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything else.")] = 1,
    faults: Annotated[
        str | None,
        typer.Option(help="Families of faults, separated by commas, or none; else the seed draws."),
    ] = None,
    cheat: Annotated[
        str | None, typer.Option(help="What one hoster does, or one strategy of --economics.")
    ] = None,
    economics: Annotated[
        bool, typer.Option("--economics", help="Show what each cheat earns instead.")
    ] = False,
    scorer: Annotated[
        str | None,
        typer.Option(help="With --economics: the plug-in that divides hosters' pay."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes; else one for each core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the protocol's own code between simulated machines, chains and cheats.

    The exit code is 1 if an invariant is broken, or if a cheat earns more than it may.
    """
    if scorer is not None and not economics:
        raise UsageError("--scorer goes with --economics", "give both")
    if economics:
        _show_economics(
            epochs, seed=seed, cheat=cheat, scorer=scorer, processes=processes, as_json=as_json
        )
    else:
        _search(
            epochs,
            nodes=nodes,
            seed=seed,
            faults=faults,
            cheat=cheat,
            processes=processes,
            as_json=as_json,
        )


def _search(
    epochs: int,
    *,
    nodes: int,
    seed: int,
    faults: str | None,
    cheat: str | None,
    processes: int | None,
    as_json: bool,
) -> None:
    import os

    from subnet.simulation.byzantine import Behaviour
    from subnet.simulation.scenario import FaultFamily
    from subnet.simulation.search import RunOutcome, Summary, list_jobs, search

    known = [fault.value for fault in FaultFamily]
    names = None if faults is None else [name for name in faults.split(",") if name != "none"]
    wrong = sorted(set(names or ()) - set(known))
    if wrong:
        raise ConfigError(
            f"--faults: {wrong[0]} is not known", f"use some of {', '.join(known)}, or none"
        )
    behaviours = [behaviour.value for behaviour in Behaviour]
    if cheat is not None and cheat not in behaviours:
        raise ConfigError(f"--cheat: {cheat} is not known", f"use one of {', '.join(behaviours)}")
    jobs = list_jobs(
        seed,
        epochs=epochs,
        nodes=nodes,
        faults=None if names is None else [FaultFamily(name) for name in names],
        cheat=None if cheat is None else Behaviour(cheat),
    )
    summary = Summary(seed, nodes)

    def on_found(found: RunOutcome) -> None:
        summary.add(found)
        if found.violation is not None:
            say(f"seed {found.seed}: {found.violation}")
        elif not as_json:
            say(f"seed {found.seed}: {found.attested} of {found.epochs} epochs attested")

    search(jobs, processes=processes or len(os.sched_getaffinity(0)), on_found=on_found)
    if as_json:
        emit(json.dumps(summary.describe()))
    else:
        emit(
            f"{summary.attested} of {summary.epochs} epochs attested, "
            f"{len(summary.violations or [])} violations"
        )
    if summary.violations:
        raise typer.Exit(1)


def _show_economics(
    epochs: int,
    *,
    seed: int,
    cheat: str | None,
    scorer: str | None,
    processes: int | None,
    as_json: bool,
) -> None:
    import os

    from consensus.errors import ScorerFailed
    from mesh.plugins import PluginKind, find_plugin
    from subnet.plugins.chosen import SCORER_HINT
    from subnet.simulation.economics.strategies import list_strategies
    from subnet.simulation.economics.table import format_table, measure

    known = [strategy.name for strategy in list_strategies()]
    if cheat is not None and cheat not in known:
        raise ConfigError(f"--cheat: {cheat} is not known", f"use one of: {'; '.join(known)}")
    if scorer is not None:
        find_plugin(PluginKind.SCORER, scorer)
    rows = []
    names = () if cheat is None else (cheat,)
    workers = processes or len(os.sched_getaffinity(0))
    try:
        for row in measure(epochs, seed=seed, names=names, processes=workers, scorer=scorer):
            rows.append(row)
            say(f"{row.name}: {row.share:.2f} of an honest node's pay")
    except ScorerFailed as error:
        raise ConfigError(str(error), SCORER_HINT) from error
    if as_json:
        emit(
            json.dumps(
                {"epochs": epochs, "seed": seed, "strategies": [row.describe() for row in rows]}
            )
        )
    else:
        emit(format_table(rows))
    if not all(row.is_stopped for row in rows):
        raise typer.Exit(1)
