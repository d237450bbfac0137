"""Many seeded runs after each other, in several processes: what ``mesh simulate`` shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

from subnet.simulation.byzantine import Behaviour
from subnet.simulation.invariants import Violation
from subnet.simulation.scenario import FaultFamily, Scenario, draw_scenario
from subnet.simulation.world import run_scenario

EPOCHS_PER_RUN = 20
"""A longer search is cut into runs of so many epochs, each of its own seed."""


@dataclass(frozen=True)
class RunJob:
    """One run of a search. ``cheat`` is what the last hoster does, whatever the seed draws."""

    seed: int
    epochs: int
    nodes: int
    faults: frozenset[FaultFamily] | None
    cheat: Behaviour | None

    def make_scenario(self) -> Scenario:
        scenario = draw_scenario(
            self.seed, epochs=self.epochs, nodes=self.nodes, faults=self.faults
        )
        if self.cheat is None:
            return scenario
        hosters = [spec for spec in scenario.nodes if spec.role.value == "hoster"]
        liar = replace(hosters[-1], behaviours=frozenset({self.cheat}))
        nodes = tuple(liar if spec.node_id == liar.node_id else spec for spec in scenario.nodes)
        return replace(scenario, nodes=nodes, faults=scenario.faults | {FaultFamily.BYZANTINE})


@dataclass(frozen=True)
class RunOutcome:
    """What one run came to: what it describes, or the invariant that it broke."""

    seed: int
    epochs: int
    attested: int
    trace_hash: str
    violation: str | None = None


@dataclass
class Summary:
    """What a search came to so far."""

    seed: int
    nodes: int
    epochs: int = 0
    attested: int = 0
    violations: list[str] | None = None
    digest: str = ""

    def add(self, found: RunOutcome) -> None:
        self.epochs += found.epochs
        self.attested += found.attested
        self.digest = hashlib.sha256((self.digest + found.trace_hash).encode()).hexdigest()
        if found.violation is not None:
            self.violations = [*(self.violations or []), found.violation]

    def describe(self) -> dict[str, Any]:
        """Return the numbers, for people and other programs."""
        return {
            "seed": self.seed,
            "nodes": self.nodes,
            "epochs": self.epochs,
            "attested": self.attested,
            "violations": self.violations or [],
            "trace": self.digest,
        }


def list_jobs(
    seed: int,
    *,
    epochs: int,
    nodes: int,
    faults: Collection[FaultFamily] | None,
    cheat: Behaviour | None,
) -> list[RunJob]:
    """Cut a search into runs; the seeds of the runs follow each other."""
    chosen = None if faults is None else frozenset(faults)
    starts = range(0, epochs, EPOCHS_PER_RUN)
    return [
        RunJob(seed + number, min(EPOCHS_PER_RUN, epochs - start), nodes, chosen, cheat)
        for number, start in enumerate(starts)
    ]


def run_job(job: RunJob) -> RunOutcome:
    """Run one job; a broken invariant is told, any other error is raised."""
    try:
        result = run_scenario(job.make_scenario())
    except Violation as violation:
        return RunOutcome(job.seed, job.epochs, 0, "", str(violation))
    return RunOutcome(job.seed, job.epochs, result.num_attested, result.trace_hash)


def search(
    jobs: Collection[RunJob], *, processes: int, on_found: Callable[[RunOutcome], None]
) -> None:
    """Run all jobs, in their order if there is one process; tell each in its order."""
    for found in _run_all(jobs, processes):
        on_found(found)


def _run_all(jobs: Collection[RunJob], processes: int) -> Iterator[RunOutcome]:
    if processes == 1 or len(jobs) == 1:
        yield from map(run_job, jobs)
        return
    # Forked: a fresh interpreter would import everything again in each process.
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        yield from pool.map(run_job, jobs)
