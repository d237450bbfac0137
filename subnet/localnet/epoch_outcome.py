"""From a proposal on chain and its proposer's report to the row of one epoch. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from consensus.submission import Submission
from consensus.types import Epoch, LayerRange, Role, Score, SubnetNodeId
from subnet.localnet.epoch_row import EpochRow, HosterRow, ValidatorRow
from subnet.localnet.node_plan import NodePlan


def build_row(
    epoch: Epoch,
    submission: Submission,
    report: Mapping[str, Any],
    nodes: Sequence[NodePlan],
    node_ids: Mapping[str, SubnetNodeId],
) -> EpochRow:
    """Join what stands on chain with what its proposer saw.

    ``report`` is the proposer's EpochReport as JSON.
    """
    seen = {hoster["subnet_node_id"]: hoster for hoster in report["hosters"]}
    proposed = dict(submission.scores)
    hosters, validators = [], []
    for node in nodes:
        node_id = node_ids[node.name]
        attested = node_id in submission.attested
        score = proposed.get(node_id, Score(0))
        if node.role is Role.HOSTER and node.layers is not None:
            hosters.append(_build_hoster(node_id, node.layers, seen.get(node_id), score, attested))
        else:
            validators.append(ValidatorRow(node_id, score, attested))
    return EpochRow(
        epoch=epoch,
        elected=submission.proposer,
        challenge_seed=bytes.fromhex(report["challenge_seed"]),
        hosters=tuple(hosters),
        validators=tuple(validators),
        proposal=submission.scores,
        attestation_ratio=Fraction(len(submission.attested), len(nodes)),
    )


def _build_hoster(
    node_id: SubnetNodeId,
    planned: LayerRange,
    seen: Mapping[str, Any] | None,
    score: Score,
    attested: bool,
) -> HosterRow:
    if seen is None:
        return HosterRow(node_id, planned, False, False, None, score, attested)
    distance = seen["distance"]
    return HosterRow(
        node_id=node_id,
        layers=LayerRange(*seen["blocks"]),
        committed=seen["committed_at"] is not None,
        revealed=seen["refusal"] is None,
        distance=None if distance is None else Fraction(distance),
        score=score,
        attested=attested,
    )
