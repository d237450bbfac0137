"""Runs scenarios one after the other on a network and judges every epoch of it."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.chaos_grounds import Ground, NamespaceGround, SlowGround, run_ip
from benchmarks.chaos_journals import COMMITS
from benchmarks.chaos_network import ChaosNetwork, Member, open_network
from benchmarks.chaos_scenarios import Scenario, Terrain
from consensus.submission import Submission
from consensus.types import SCORE_ONE, Epoch
from subnet.localnet.environment import open_directory

CALM_EPOCHS = 2
"""Epochs without faults: validators are paid for their scores from the second one on."""
KEPT_SHARE = 0.99
"""A score at least so large, beside that of a calm epoch, counts as kept: distances vary."""
NO_ROOT = "needs root: network and mount namespaces, with unshare and ip"


@dataclass
class Outcome:
    """What became of one scenario. ``not_run`` says why it was not run."""

    name: str
    not_run: str | None = None
    epochs: int = 0
    kills: int = 0
    commits: int = 0
    lost: int = 0
    doubled: int = 0
    scores_kept: int = 0
    scores_due: int = 0
    lowest_attested: int | None = None
    restart_s: float | None = None
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunOptions:
    """How a run is made: ``rounds`` epochs of each scenario, drawn from ``seed``."""

    rounds: int
    seed: int
    block_seconds: float
    keep: Path | None
    has_namespaces: bool


def say(text: str) -> None:
    """Tell what happens, on stderr."""
    print(text, file=sys.stderr, flush=True)


async def run_scenarios(scenarios: Sequence[Scenario], options: RunOptions) -> list[dict[str, Any]]:
    """Run them in their order; neighbours on the same terrain share a network."""
    if options.has_namespaces:
        run_ip("link", "set", "lo", "up")
    outcomes = []
    for terrain, group in groupby(scenarios, key=lambda one: one.terrain):
        chosen = list(group)
        possible = [one for one in chosen if options.has_namespaces or not one.needs_root]
        outcomes += [Outcome(one.name, not_run=NO_ROOT) for one in chosen if one not in possible]
        if possible:
            outcomes += await _run_on(terrain, possible, options)
    return [asdict(outcome) for outcome in outcomes]


async def _run_on(
    terrain: Terrain, scenarios: Sequence[Scenario], options: RunOptions
) -> list[Outcome]:
    grounds = {
        Terrain.LOOPBACK: lambda: Ground(has_small_disk=any(one.needs_root for one in scenarios)),
        Terrain.PROXIES: lambda: SlowGround(Random(options.seed)),
        Terrain.NAMESPACES: NamespaceGround,
    }
    keep = None if options.keep is None else options.keep / terrain.value
    with open_directory(keep) as directory:
        async with open_network(
            directory, block_seconds=options.block_seconds, ground=grounds[terrain](), say=say
        ) as (network, first):
            return await Trial(network, first, options).run(scenarios)


class Trial:
    """The epochs of one network, from the first one on."""

    def __init__(self, network: ChaosNetwork, first: Epoch, options: RunOptions) -> None:
        self._network = network
        self._options = options
        self._first = self._next = first
        self._calm: dict[int, int] = {}
        """What each node is paid in an epoch without faults."""
        self._calm_outcome = Outcome("calm")
        self._disturbed: dict[int, Outcome] = {}
        self._attested: Counter[int] = Counter()

    async def run(self, scenarios: Sequence[Scenario]) -> list[Outcome]:
        """Return what became of calm epochs, then of each scenario in its order."""
        network, outcomes = self._network, [self._calm_outcome]
        for _ in range(CALM_EPOCHS):
            await self._run_epoch(None)
        for scenario in scenarios:
            outcome = Outcome(scenario.name)
            outcomes.append(outcome)
            network.restart_s.clear()
            for _ in range(self._options.rounds):
                await self._run_epoch(scenario, outcome)
            if network.restart_s:
                outcome.restart_s = statistics.median(network.restart_s)
        # The scores of the last one are proposed in the next one.
        await self._run_epoch(None)
        await self._check_extrinsics(outcomes[-1])
        return outcomes

    async def _run_epoch(self, scenario: Scenario | None, outcome: Outcome | None = None) -> None:
        """Disturb one epoch; at its end, judge the one before."""
        network, epoch = self._network, self._next
        self._next = Epoch(epoch + 1)
        await network.wait_for(epoch, 0)
        if scenario is not None and outcome is not None:
            self._disturbed[epoch] = outcome
            await self._disturb(scenario, outcome, epoch)
        await network.wait_for(self._next, 0)
        await network.read_journals()
        if epoch > self._first:
            await self._judge(Epoch(epoch - 1))

    async def _disturb(self, scenario: Scenario, outcome: Outcome, epoch: Epoch) -> None:
        network = self._network
        killed_before = network.kills
        draw = Random(f"{self._options.seed}/{scenario.name}/{outcome.epochs}")
        try:
            await scenario.disturb(network, epoch, draw)
            await network.wait_ready(network.members)
        except TimeoutError as error:
            network.faults.append(f"{scenario.name} took too long: {error}")
        outcome.epochs += 1
        outcome.kills += network.kills - killed_before

    async def _judge(self, epoch: Epoch) -> None:
        """Judge an epoch whose scores were proposed in the one that has just ended."""
        network, last = self._network, Epoch(epoch + 1)
        outcome = self._disturbed.get(epoch, self._calm_outcome)
        found = self._judge_scores(epoch, await network.fetch_submission(last), outcome)
        found += self._judge_commits(epoch, outcome)
        found += [f"by the end of epoch {last}: {fault}" for fault in network.faults]
        network.faults.clear()
        # The scores of the last calm epoch are proposed in the first one with faults.
        blamed = outcome if epoch in self._disturbed else self._disturbed.get(last, outcome)
        blamed.violations += found
        for violation in found:
            say(f"VIOLATION: {violation}")

    def _judge_scores(
        self, epoch: Epoch, submission: Submission | None, outcome: Outcome
    ) -> list[str]:
        members = self._network.members
        outcome.scores_due += len(members)
        if outcome is self._calm_outcome:
            outcome.epochs += 1
        if submission is None:
            return [f"epoch {epoch}: no node proposed its scores"]
        self._attested.update(submission.attested)
        paid, attested = dict(submission.scores), len(submission.attested)
        outcome.lowest_attested = min(attested, outcome.lowest_attested or attested)
        if epoch < self._first + CALM_EPOCHS:
            self._calm = {one.node_id: paid.get(one.node_id, 0) for one in members}
        found = []
        if 3 * attested < 2 * len(members):
            found.append(f"epoch {epoch}: {attested} of {len(members)} nodes attested its scores")
        for member in members:
            score, due = paid.get(member.node_id, 0), self._calm[member.node_id]
            if score > 0 and score >= KEPT_SHARE * due:
                outcome.scores_kept += 1
            else:
                found.append(
                    f"epoch {epoch}: {member.name} is paid {score / SCORE_ONE:.6f} and not "
                    f"{due / SCORE_ONE:.6f}: {self._explain(member, submission, epoch)}"
                )
        say(
            f"epoch {epoch} ({outcome.name}): proposed by node {submission.proposer}, attested by "
            f"{attested} of {len(members)}, {len(members) - len(found)} scores kept"
        )
        return found

    def _explain(self, member: Member, submission: Submission, epoch: Epoch) -> str:
        """Return what the proposer reported of the node."""
        network = self._network
        (proposer,) = (one for one in network.members if one.node_id == submission.proposer)
        report = network.reports.get((proposer.name, epoch))
        if report is None:
            return f"no report of the proposer, {proposer.name}"
        for row in (*report["hosters"], *report["validators"]):
            if row["subnet_node_id"] == member.node_id:
                return ", ".join(f"{k} {v}" for k, v in row.items() if k != "reasons")
        return f"the proposer, {proposer.name}, reports nothing of it"

    def _judge_commits(self, epoch: Epoch, outcome: Outcome) -> list[str]:
        journals, found = self._network.journals, []
        for member in self._network.members:
            role = member.plan.role
            outcome.commits += 1
            if not journals.is_committed_and_opened(member.node_id, role, epoch):
                outcome.lost += 1
                name = COMMITS[role][0].name
                found.append(f"epoch {epoch}: {member.name} has no {name} with what opens it")
            doubled = journals.list_doubled(member.node_id, epoch)
            outcome.doubled += len(doubled)
            found += [f"epoch {epoch}: two versions of {member.name}'s {k.name}" for k in doubled]
        return found

    async def _check_extrinsics(self, outcome: Outcome) -> None:
        """What the chain took of each hotkey is its proposals and attestations, each once."""
        network = self._network
        taken = {one.node_id: await network.fetch_nonce(one) for one in network.members}
        # A fault may have lasted longer than its epoch.
        for epoch in (self._first, *range(self._next, network.position.epoch + 1)):
            submission = await network.fetch_submission(Epoch(epoch))
            self._attested.update(() if submission is None else submission.attested)
        for member in network.members:
            sent, landed = taken[member.node_id], self._attested[member.node_id]
            if sent > landed:
                outcome.violations.append(
                    f"{member.name} sent {sent} extrinsics, and {landed} of them count"
                )
