"""The table of cheats: what each strategy earns beside honest nodes in the same swarm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from consensus.challenge import ModelShape
from consensus.protocol_params import MAINNET
from consensus.types import Role
from mesh.assets import SHIPPED_MODEL_NAME
from mesh.model.cheats import Cheats
from mesh.model.config import load_config
from mesh.model.files import resolve_known_model
from mesh.model.weights import load_shard
from subnet.simulation.economics.answers import ModelAnswers
from subnet.simulation.economics.strategies import Strategy, list_strategies
from subnet.simulation.economics.swarm import Swarm

MAX_SHARE = 0.2
MIN_HONEST = 0.9


@dataclass(frozen=True)
class Row:
    """What one strategy came to. Shares are of the pay of an honest node in the same role.

    ``worst_honest`` is the least that an honest node earned, beside the mean of its role.
    ``lost`` is the share of epochs whose proposal was not attested, so nobody was paid.
    """

    strategy: Strategy
    share: float
    worst_honest: float
    absent: float
    lost: float
    refused: int
    proposals: int

    @property
    def is_stopped(self) -> bool:
        allowed = max(MAX_SHARE, self.strategy.honest_share)
        return self.share <= allowed + 0.02 and self.worst_honest >= MIN_HONEST

    def describe(self) -> dict[str, Any]:
        """Return the row for other programs."""
        return {
            "strategy": self.strategy.name,
            "role": self.strategy.role.value,
            "share": round(self.share, 3),
            "honest_work": round(self.strategy.honest_share, 3),
            "worst_honest": round(self.worst_honest, 3),
            "absent": round(self.absent, 3),
            "epochs_lost": round(self.lost, 3),
            "proposals_refused": f"{self.refused} of {self.proposals}",
            "saves": self.strategy.saves,
            "stopped_by": self.strategy.stopped_by,
            "stopped": self.is_stopped,
        }


def load_answers() -> ModelAnswers:
    """Return what the shipped model answers, by torch."""
    folder = resolve_known_model(SHIPPED_MODEL_NAME)
    config = load_config(folder.path)
    weights = load_shard(folder, config, start=0, end=config.num_layers)
    shape = ModelShape(config.num_layers, config.hidden_size, config.vocab_size)
    return ModelAnswers(Cheats(weights), shape, MAINNET)


def measure(epochs: int, *, seed: int, names: Sequence[str] = ()) -> Iterator[Row]:
    """Run each strategy for so many epochs; yield its row."""
    answers = load_answers()
    for strategy in list_strategies():
        if not names or strategy.name in names:
            yield run_strategy(strategy, answers, epochs=epochs, seed=seed)


def run_strategy(strategy: Strategy, answers: ModelAnswers, *, epochs: int, seed: int) -> Row:
    actors = strategy.build()
    ledger = Swarm(actors, answers, MAINNET, seed=seed).run(epochs)
    honest = [actor for actor in actors if actor.is_honest]
    cheats = [actor.node_id for actor in actors if not actor.is_honest]
    means = {
        role: _mean([ledger.pay[actor.node_id] for actor in honest if actor.role is role])
        for role in Role
    }
    worst = min(
        ledger.pay[actor.node_id] / means[actor.role] if means[actor.role] else 0.0
        for actor in honest
    )
    reference = means[strategy.role]
    share = _mean([ledger.pay[node] for node in cheats]) / reference if reference else 1.0
    return Row(
        strategy,
        share,
        worst,
        absent=_mean([ledger.absent[node] / ledger.num_epochs for node in cheats]),
        lost=ledger.num_lost / ledger.num_epochs,
        refused=sum(ledger.refused_proposals[node] for node in cheats),
        proposals=sum(ledger.proposals[node] for node in cheats),
    )


def format_table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    head = (
        "| strategy | earns | of honest work | worst honest | left out | epochs lost | saves "
        "| stopped by |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row.strategy.name} | {row.share:.2f} | {row.strategy.honest_share:.2f} "
        f"| {row.worst_honest:.2f} | {row.absent:.0%} | {row.lost:.0%} "
        f"| {row.strategy.saves} | {row.strategy.stopped_by} |\n"
        for row in rows
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
