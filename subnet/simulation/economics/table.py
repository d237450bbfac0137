"""The table of cheats: what each strategy earns beside honest nodes in the same swarm."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from consensus.protocol_params import MAINNET
from consensus.scorer import Scorer
from consensus.types import Role
from subnet.plugins.chosen import open_named_scorer
from subnet.simulation.economics.answers import ModelAnswers
from subnet.simulation.economics.models import load_shipped, make_wide
from subnet.simulation.economics.strategies import Strategy, get_strategy, list_strategies
from subnet.simulation.economics.swarm import Swarm

MAX_SHARE = 0.2
MIN_HONEST = 0.9
MODELS = {"shipped": load_shipped, "wide": make_wide}
"""``wide`` is a random model of TinyLlama's width, for strategies that are about numbers."""


@dataclass(frozen=True)
class Row:
    """What one strategy came to, on the answers of one model.

    ``share`` is what a cheat is paid in an epoch in which the chain lists it, over what an honest
    node of its role is paid: a cheat that registers again earns as much. ``worst_honest`` is the
    least that an honest node earned, beside the mean of its role. ``reward`` is the stake that the
    chain gave a cheat in all epochs, over an honest node's, and ``reputation`` what the chain
    thinks of it at the end, 0 if it was removed; ``listed`` is the share of epochs before that.
    ``absent`` is the share of those in which no row named it. ``lost`` is the share of epochs whose
    proposal was not attested, so that no node was paid.
    """

    strategy_name: str
    model: str
    share: float
    worst_honest: float
    reward: float
    reputation: float
    listed: float
    absent: float
    lost: float
    refused: int
    proposals: int

    @property
    def strategy(self) -> Strategy:
        """What was measured; a strategy holds functions, which do not travel between processes."""
        return get_strategy(self.strategy_name)

    @property
    def name(self) -> str:
        """The strategy, and the model if it is not the shipped one."""
        return self.strategy_name + (" (TinyLlama's width)" if self.model == "wide" else "")

    @property
    def is_stopped(self) -> bool:
        allowed = max(MAX_SHARE, self.strategy.honest_share)
        return self.share <= allowed + 0.02 and self.worst_honest >= MIN_HONEST

    def describe(self) -> dict[str, Any]:
        """Return the row for other programs."""
        return {
            "strategy": self.strategy_name,
            "model": self.model,
            "role": self.strategy.role.value,
            "share": round(self.share, 3),
            "honest_work": round(self.strategy.honest_share, 3),
            "worst_honest": round(self.worst_honest, 3),
            "chain_reward": round(self.reward, 3),
            "reputation": round(self.reputation, 3),
            "listed": round(self.listed, 3),
            "absent": round(self.absent, 3),
            "epochs_lost": round(self.lost, 3),
            "proposals_refused": f"{self.refused} of {self.proposals}",
            "saves": self.strategy.saves,
            "stopped_by": self.strategy.stopped_by,
            "stopped": self.is_stopped,
        }


def list_jobs(names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return (strategy, model) of every row, those of ``names`` if there are any."""
    strategies = [s for s in list_strategies() if not names or s.name in names]
    shipped = [(strategy.name, "shipped") for strategy in strategies]
    return shipped + [(s.name, "wide") for s in strategies if s.is_about_numbers]


def measure(
    epochs: int,
    *,
    seed: int,
    names: Sequence[str] = (),
    processes: int = 1,
    scorer: str | None = None,
) -> Iterator[Row]:
    """Run each strategy for so many epochs; yield the rows in the order of the table.

    ``scorer`` names a plug-in that divides the hosters' pay. Raises ScorerFailed if it fails.
    """
    run = partial(_run_job, epochs=epochs, seed=seed, scorer=scorer)
    # Torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(run, list_jobs(names))


def _run_job(job: tuple[str, str], *, epochs: int, seed: int, scorer: str | None) -> Row:
    name, model = job
    answers = _open_model(model)
    with open_named_scorer(scorer) as rule:
        return run_strategy(
            get_strategy(name), answers, epochs=epochs, seed=seed, model=model, scorer=rule
        )


@cache
def _open_model(model: str) -> ModelAnswers:
    return MODELS[model]()


def run_strategy(
    strategy: Strategy,
    answers: ModelAnswers,
    *,
    epochs: int,
    seed: int,
    model: str = "shipped",
    scorer: Scorer | None = None,
) -> Row:
    """Run one swarm for so many epochs and compare its cheats with its honest nodes."""
    swarm = Swarm(strategy.build(), answers, MAINNET, seed=seed, scorer=scorer)
    tally = swarm.run(epochs)
    actors = swarm.actors.values()
    cheats = [actor.node_id for actor in actors if not actor.is_honest]
    honest = [actor for actor in actors if actor.is_honest]
    peers = [actor.node_id for actor in honest if actor.role is strategy.role]
    pay = {node: tally.pay[node] / tally.present[node] for node in swarm.actors}
    means = {
        role: _mean([pay[actor.node_id] for actor in honest if actor.role is role]) for role in Role
    }
    outcomes = {node: swarm.chain.read_outcome(node) for node in swarm.actors}
    return Row(
        strategy.name,
        model,
        share=_divide(_mean([pay[node] for node in cheats]), means[strategy.role], otherwise=1.0),
        worst_honest=min(
            _divide(pay[actor.node_id], means[actor.role], otherwise=0.0) for actor in honest
        ),
        reward=_divide(
            _mean([outcomes[node].gained for node in cheats]),
            _mean([outcomes[node].gained for node in peers]),
            otherwise=1.0,
        ),
        reputation=_mean([outcomes[node].reputation for node in cheats]),
        listed=_mean([tally.present[node] / tally.num_epochs for node in cheats]),
        absent=_mean([tally.absent[node] / tally.present[node] for node in cheats]),
        lost=tally.num_lost / tally.num_epochs,
        refused=sum(tally.refused_proposals[node] for node in cheats),
        proposals=sum(tally.proposals[node] for node in cheats),
    )


def format_table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    head = (
        "| strategy | earns | of honest work | worst honest | chain pays | reputation | listed "
        "| left out | epochs lost | saves | stopped by |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row.name} | {row.share:.2f} | {row.strategy.honest_share:.2f} "
        f"| {row.worst_honest:.2f} | {row.reward:.2f} | {row.reputation:.2f} | {row.listed:.0%} "
        f"| {row.absent:.0%} | {row.lost:.0%} "
        f"| {row.strategy.saves} | {row.strategy.stopped_by} |\n"
        for row in rows
    )


def _divide(part: float, whole: float, *, otherwise: float) -> float:
    return part / whole if whole else otherwise


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
