"""How one node scored one epoch, with the reasons, and its one rendering as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from consensus.agreement import DISTANCE_ONE
from consensus.evidence import Refusal
from consensus.scoring import HosterReport, ScoreRows, ValidatorReport
from consensus.types import Epoch


@dataclass(frozen=True, slots=True)
class EpochReport:
    """How this node scored one epoch.

    ``validators`` are judged by their scores of the epoch before; ``refusals`` are records
    that were dropped; ``rows`` are what this node proposes or attests.
    """

    epoch: Epoch
    seed: bytes
    hosters: tuple[HosterReport, ...]
    validators: tuple[ValidatorReport, ...]
    refusals: tuple[Refusal, ...]
    rows: ScoreRows

    def to_json(self) -> str:
        """Return one line of JSON. Scores are decimal strings of integers at 10**18."""
        body = {
            "epoch": self.epoch,
            "challenge_seed": self.seed.hex(),
            "hosters": [_describe_hoster(hoster) for hoster in self.hosters],
            "validators": [
                _describe_validator(validator, scored_epoch=self.epoch - 1)
                for validator in self.validators
            ],
            "refusals": [
                [refusal.kind.name, refusal.node_id, str(refusal.reason)]
                for refusal in self.refusals
            ],
            "rows": [[node_id, str(score)] for node_id, score in self.rows],
        }
        return json.dumps(body)


def _describe_hoster(hoster: HosterReport) -> dict[str, Any]:
    distance = hoster.distance
    return {
        "subnet_node_id": hoster.node_id,
        "blocks": [hoster.layers.start, hoster.layers.end],
        "committed_at": hoster.committed_at,
        "revealed_at": hoster.revealed_at,
        "refusal": hoster.refusal,
        "distance": None if distance is None else distance / DISTANCE_ONE,
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


def _describe_validator(validator: ValidatorReport, *, scored_epoch: int) -> dict[str, Any]:
    distance = validator.distance
    return {
        "subnet_node_id": validator.node_id,
        "scored_epoch": scored_epoch,
        "committed_at": validator.committed_at,
        "revealed_at": validator.revealed_at,
        "refusal": validator.refusal,
        "distance": None if distance is None else str(distance),
        "score": str(validator.score),
    }
