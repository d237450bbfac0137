"""How one node scored one epoch, with the reasons, and its one rendering as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consensus.agreement import DISTANCE_ONE
from consensus.evidence import Refusal
from consensus.rows import ScoreRows
from consensus.scoring import HosterReport, ValidatorReport
from consensus.types import Epoch, SubnetNodeId


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The score of one epoch.

    ``validators`` are judged by their scores of the epoch before and their audits of this one;
    ``refusals`` are accepted records that do not count. ``failed_probes`` counts for a hoster how
    many of the ``num_named`` sightings say that it does not serve. ``rows`` are what is proposed
    or attested; ``unpaid`` and ``probation`` (epochs left after this one) go with them into the
    proposal.
    """

    epoch: Epoch
    seed: bytes
    hosters: tuple[HosterReport, ...] = ()
    validators: tuple[ValidatorReport, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    failed_probes: Mapping[SubnetNodeId, int] = field(default_factory=dict)
    num_named: int = 0
    unpaid: frozenset[SubnetNodeId] = frozenset()
    probation: Mapping[SubnetNodeId, int] = field(default_factory=dict)
    rows: ScoreRows = ()

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
            "failed_probes": [[node_id, n] for node_id, n in sorted(self.failed_probes.items())],
            "named_sightings": self.num_named,
            "unpaid": sorted(self.unpaid),
            "probation": [[node_id, left] for node_id, left in sorted(self.probation.items())],
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
        "penalty": hoster.penalty,
        "distance": None if distance is None else distance / DISTANCE_ONE,
        "score": str(hoster.score),
        "total": str(hoster.total),
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
    return {
        "subnet_node_id": validator.node_id,
        "scored_epoch": scored_epoch,
        "committed_at": validator.committed_at,
        "revealed_at": validator.revealed_at,
        "refusal": validator.refusal,
        "accuracy": str(validator.accuracy),
        "audit_refusal": validator.audit_refusal,
        "score_share": str(validator.score_share),
        "audit_share": str(validator.audit_share),
        "score": str(validator.score),
        "rows": [
            {
                "subnet_node_id": row.hoster,
                "total": None if row.total is None else str(row.total),
                "expected": None if row.expected is None else str(row.expected),
                "refusal": row.refusal,
            }
            for row in validator.rows
        ],
    }
