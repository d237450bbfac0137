"""What one epoch's work came to, with the reasons: a score is never a bare number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from consensus.agreement import DISTANCE_ONE
from consensus.errors import Reason
from consensus.evidence import EpochContext, OutputEvidence, Refusal
from consensus.scoring import (
    HosterScores,
    LayerReason,
    ScoreRows,
    ValidatorReason,
    ValidatorScores,
)
from consensus.types import BlockNumber, Epoch, LayerRange, Score, SubnetNodeId


@dataclass(frozen=True, slots=True)
class HosterReport:
    """One hoster with an accepted output commit.

    ``distance`` is the largest relative L2 distance to the mean over its layers, in 1e-12;
    None if no layer of it could be measured. ``refusal`` says why its reveal does not count.
    """

    node_id: SubnetNodeId
    layers: LayerRange
    committed_at: BlockNumber | None
    revealed_at: BlockNumber | None
    refusal: Reason | None
    distance: int | None
    score: Score
    reasons: tuple[LayerReason, ...]

    @property
    def is_revealed(self) -> bool:
        """Whether a reveal came in time and opens the commit."""
        return self.refusal is None

    @property
    def relative_distance(self) -> Fraction | None:
        return None if self.distance is None else Fraction(self.distance, DISTANCE_ONE)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """How this node scored one epoch.

    ``validators`` are judged by their scores of the epoch before; ``refusals`` are records
    that were dropped; ``rows`` are what this node proposes or attests.
    """

    epoch: Epoch
    seed: bytes
    hosters: tuple[HosterReport, ...]
    validators: tuple[ValidatorReason, ...]
    refusals: tuple[Refusal, ...]
    rows: ScoreRows

    def get_score(self, node_id: SubnetNodeId) -> Score:
        """Return the proposed score of a node, 0 for one without a row."""
        return dict(self.rows).get(node_id, Score(0))

    def to_json(self) -> str:
        """Return one line of JSON. Scores are decimal strings of integers at 10**18."""
        body = {
            "epoch": self.epoch,
            "challenge_seed": self.seed.hex(),
            "hosters": [_describe_hoster(hoster) for hoster in self.hosters],
            "validators": [_describe_validator(reason) for reason in self.validators],
            "refusals": [
                [refusal.kind.name, refusal.node_id, str(refusal.reason)]
                for refusal in self.refusals
            ],
            "rows": [[node_id, str(score)] for node_id, score in self.rows],
        }
        return json.dumps(body)


def build_report(
    context: EpochContext,
    *,
    outputs: OutputEvidence,
    hosters: HosterScores,
    validators: ValidatorScores,
    rows: ScoreRows,
) -> EpochReport:
    """Gather what scoring found into one report."""
    return EpochReport(
        epoch=context.roster.epoch,
        seed=context.seed,
        hosters=_build_hosters(outputs, hosters),
        validators=validators.reasons,
        refusals=outputs.refusals,
        rows=rows,
    )


def _build_hosters(outputs: OutputEvidence, scores: HosterScores) -> tuple[HosterReport, ...]:
    reports = []
    for hoster in outputs.hosters:
        reasons = tuple(r for r in scores.reasons if r.node_id == hoster.node_id)
        distances = [reason.distance for reason in reasons if reason.distance is not None]
        reports.append(
            HosterReport(
                node_id=hoster.node_id,
                layers=hoster.layers,
                committed_at=hoster.committed_at,
                revealed_at=hoster.revealed_at,
                refusal=hoster.refusal,
                distance=max(distances, default=None),
                score=scores.scores[hoster.node_id],
                reasons=reasons,
            )
        )
    return tuple(reports)


def _describe_hoster(hoster: HosterReport) -> dict[str, Any]:
    distance = hoster.relative_distance
    return {
        "subnet_node_id": hoster.node_id,
        "blocks": [hoster.layers.start, hoster.layers.end],
        "committed_at": hoster.committed_at,
        "revealed_at": hoster.revealed_at,
        "refusal": hoster.refusal,
        "distance": None if distance is None else float(distance),
        "score": str(hoster.score),
        "reasons": [
            {
                "block": reason.layer,
                "verdict": reason.verdict.value,
                "refusal": reason.refusal,
                "distance": reason.distance,
                "score": str(reason.score),
                "share": str(reason.share),
            }
            for reason in hoster.reasons
        ],
    }


def _describe_validator(reason: ValidatorReason) -> dict[str, Any]:
    return {
        "subnet_node_id": reason.node_id,
        "scored_epoch": reason.epoch,
        "committed_at": reason.committed_at,
        "revealed_at": reason.revealed_at,
        "refusal": reason.refusal,
        "distance": None if reason.distance is None else str(reason.distance),
        "score": str(reason.score),
    }
