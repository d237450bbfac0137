"""From what was seen in an epoch to one score per node, in exact integers.

Layers share the hosters' pool equally, so an under-served layer pays more per hoster.
The scale is absolute, so bad work does not inherit what it displaces, and a layer
that no hoster serves pays nothing. Each score comes with the reasons that made it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from consensus.agreement import (
    Answer,
    LayerScores,
    Verdict,
    choose_votes,
    compute_layer_scores,
)
from consensus.challenge import (
    ModelShape,
    compute_owed_layers,
    compute_vector_length,
    decode_vector,
)
from consensus.errors import InvalidVector, Reason
from consensus.protocol_params import ConsensusParams
from consensus.roster import Roster
from consensus.types import (
    SCORE_ONE,
    BlockNumber,
    LayerRange,
    NodeClass,
    Score,
    SubnetNodeId,
)

ScoreRows = tuple[tuple[SubnetNodeId, Score], ...]
"""Sorted by node id, without repeats."""
MAX_VOTES_WITHOUT_CENTRE = 2
"""With so few score reveals a median is one of them, and the attested proposal is the centre."""


@dataclass(frozen=True, slots=True)
class HosterEvidence:
    """What this node saw of one hoster with an output commit.

    ``vectors`` are the encoded vectors of a reveal that opened its commitment, one for each
    owed layer; empty if ``refusal`` says why there is none. ``committed_at`` and
    ``revealed_at`` are the heads at which the records were first seen.
    """

    node_id: SubnetNodeId
    coldkey: bytes
    layers: LayerRange
    committed_at: BlockNumber | None = None
    revealed_at: BlockNumber | None = None
    vectors: tuple[bytes, ...] = ()
    refusal: Reason | None = None


@dataclass(frozen=True, slots=True)
class LayerReason:
    """Why one hoster's work on one layer is worth ``share`` of the hosters' pool."""

    node_id: SubnetNodeId
    layer: int
    verdict: Verdict
    refusal: Reason | None
    distance: int | None
    """Relative L2 distance to the mean of the valid votes, in 1e-12."""
    score: Score
    share: Score


@dataclass(frozen=True, slots=True)
class HosterReport:
    """What one hoster's work is worth: ``score`` is the sum of the shares of its layers.

    ``distance`` is the largest one of its layers, None if no layer of it could be measured.
    ``refusal`` says why its reveal does not count.
    """

    node_id: SubnetNodeId
    layers: LayerRange
    committed_at: BlockNumber | None
    revealed_at: BlockNumber | None
    refusal: Reason | None
    distance: int | None
    score: Score
    reasons: tuple[LayerReason, ...]


@dataclass(frozen=True, slots=True)
class HosterScores:
    """One report for each hoster, sorted by node id, and the verdict on each layer."""

    reports: tuple[HosterReport, ...]
    verdicts: Mapping[int, Verdict]

    @property
    def scores(self) -> dict[SubnetNodeId, Score]:
        return {report.node_id: report.score for report in self.reports}


@dataclass(frozen=True, slots=True)
class ValidatorEvidence:
    """What this node saw of one validator's scores; ``refusal`` if they do not count."""

    node_id: SubnetNodeId
    coldkey: bytes
    committed_at: BlockNumber | None = None
    revealed_at: BlockNumber | None = None
    scores: ScoreRows = ()
    refusal: Reason | None = None


@dataclass(frozen=True, slots=True)
class ValidatorReport:
    """Why one validator's scores are worth ``score``; ``distance`` is L2 to the centre."""

    node_id: SubnetNodeId
    committed_at: BlockNumber | None
    revealed_at: BlockNumber | None
    refusal: Reason | None
    distance: int | None
    score: Score


@dataclass(frozen=True, slots=True)
class ValidatorScores:
    """One report for each validator with a score commit, sorted by node id."""

    reports: tuple[ValidatorReport, ...]

    @property
    def scores(self) -> dict[SubnetNodeId, Score]:
        return {report.node_id: report.score for report in self.reports}


def compute_hoster_scores(
    evidence: Sequence[HosterEvidence], *, shape: ModelShape, params: ConsensusParams
) -> HosterScores:
    """Score every hoster of an epoch: the sum of its shares over the layers it serves.

    Raises ValueError if one node appears twice, or with another number of vectors than it owes.
    """
    _check_evidence(evidence, shape)
    pool = compute_layer_pool(shape, params)
    verdicts: dict[int, Verdict] = {}
    reasons: dict[SubnetNodeId, list[LayerReason]] = {hoster.node_id: [] for hoster in evidence}
    for layer in shape.challenged_layers:
        answers = [
            _decode_answer(hoster, layer, shape, params)
            for hoster in evidence
            if layer in _compute_owed(hoster, shape)
        ]
        length = compute_vector_length(layer, shape, params)
        judged = compute_layer_scores(
            answers, length=length, params=params, scale=shape.scale_of(layer)
        )
        verdicts[layer] = judged.verdict
        for answer in judged.answers:
            reasons[answer.node_id].append(
                LayerReason(
                    node_id=answer.node_id,
                    layer=layer,
                    verdict=judged.verdict,
                    refusal=answer.refusal,
                    distance=answer.distance,
                    score=answer.score,
                    share=compute_share(answer.score, judged, pool),
                )
            )
    ordered = sorted(evidence, key=lambda hoster: hoster.node_id)
    reports = tuple(_report_hoster(hoster, reasons[hoster.node_id]) for hoster in ordered)
    return HosterScores(reports, verdicts)


def compute_layer_pool(shape: ModelShape, params: ConsensusParams) -> Score:
    """Return what one layer pays in all; the head counts as a layer."""
    return Score(params.hoster_pool // len(shape.challenged_layers))


def compute_share(score: Score, judged: LayerScores, pool: Score) -> Score:
    """Return what one answer of this score earns of its layer's pool."""
    if judged.num_valid == 0:
        return Score(0)
    share = pool * score // (judged.num_valid * SCORE_ONE)
    return Score(share // 2 if judged.verdict is Verdict.LOW_REDUNDANCY else share)


def compute_validator_scores(
    evidence: Sequence[ValidatorEvidence],
    *,
    node_ids: Collection[SubnetNodeId],
    attested: Mapping[SubnetNodeId, Score] | None,
    params: ConsensusParams,
) -> ValidatorScores:
    """Score every validator by how near its scores of an epoch are to those of all validators.

    ``node_ids`` are the Included and Validator nodes of that epoch; a vector covers them all,
    with 0 where a validator names none, so an empty list is far from the others and not near.
    ``attested`` are the hoster rows of the attested proposal that scores that epoch, None if
    there is none.
    ``evidence`` is of nodes in the role validator only: a node that is paid as a hoster would
    thin the validators' pool. Raises ValueError if one node appears twice.
    """
    ordered = sorted(evidence, key=lambda validator: validator.node_id)
    if len({validator.node_id for validator in ordered}) != len(ordered):
        raise ValueError("a validator reveals its scores once")
    ids = sorted(node_ids)
    refusals = {validator.node_id: _find_refusal(validator, ids, params) for validator in ordered}
    ballots = [
        _Ballot(validator.node_id, validator.coldkey, _as_vector(dict(validator.scores), ids))
        for validator in ordered
        if refusals[validator.node_id] is None
    ]
    centre = None if attested is None else _as_vector(attested, ids)
    judged = _judge_ballots(ballots, centre, params)
    reports = [
        ValidatorReport(
            validator.node_id,
            validator.committed_at,
            validator.revealed_at,
            *judged.get(validator.node_id, _Judgement(refusals[validator.node_id])),
        )
        for validator in ordered
    ]
    return ValidatorScores(tuple(reports))


def compute_proposal_rows(
    roster: Roster,
    *,
    present: Collection[SubnetNodeId],
    hosters: Collection[SubnetNodeId],
    hoster_scores: Mapping[SubnetNodeId, Score],
    validator_scores: Mapping[SubnetNodeId, Score],
) -> ScoreRows:
    """Return what the elected validator proposes for the roster's epoch, sorted by node id.

    ``present`` have at least one accepted record in the epoch; the chain counts the others
    absent. ``hosters`` have an accepted output commit and are paid for that role only.
    """
    rows = []
    for node in sorted(roster.with_class(NodeClass.INCLUDED), key=lambda node: node.node_id):
        if node.node_id in present:
            scores = hoster_scores if node.node_id in hosters else validator_scores
            rows.append((node.node_id, scores.get(node.node_id, Score(0))))
    return tuple(rows)


def _check_evidence(evidence: Sequence[HosterEvidence], shape: ModelShape) -> None:
    if len({hoster.node_id for hoster in evidence}) != len(evidence):
        raise ValueError("a hoster reveals its outputs once")
    for hoster in evidence:
        owed = _compute_owed(hoster, shape)
        if hoster.refusal is None and len(hoster.vectors) != len(owed):
            raise ValueError(f"node {hoster.node_id} owes {len(owed)} vectors")


def _compute_owed(hoster: HosterEvidence, shape: ModelShape) -> range:
    if hoster.layers.end > shape.num_layers:
        # A commit to layers that do not exist: its author earns 0, and scoring goes on.
        return range(0)
    return compute_owed_layers(hoster.layers, shape.num_layers)


def _decode_answer(
    hoster: HosterEvidence, layer: int, shape: ModelShape, params: ConsensusParams
) -> Answer:
    if hoster.refusal is not None:
        return Answer(hoster.node_id, hoster.coldkey, refusal=hoster.refusal)
    raw = hoster.vectors[layer - hoster.layers.start]
    try:
        length = compute_vector_length(layer, shape, params)
        vector = decode_vector(raw, length, params, shape.scale_of(layer))
    except InvalidVector as error:
        return Answer(hoster.node_id, hoster.coldkey, refusal=error.reason)
    return Answer(hoster.node_id, hoster.coldkey, vector)


def _report_hoster(hoster: HosterEvidence, reasons: Sequence[LayerReason]) -> HosterReport:
    distances = [reason.distance for reason in reasons if reason.distance is not None]
    return HosterReport(
        node_id=hoster.node_id,
        layers=hoster.layers,
        committed_at=hoster.committed_at,
        revealed_at=hoster.revealed_at,
        refusal=hoster.refusal,
        distance=max(distances, default=None),
        score=Score(sum(reason.share for reason in reasons)),
        reasons=tuple(reasons),
    )


@dataclass(frozen=True, slots=True)
class _Ballot:
    """A validator's scores as a vector over all ids."""

    node_id: SubnetNodeId
    coldkey: bytes
    vector: tuple[int, ...]


class _Judgement(NamedTuple):
    refusal: Reason | None
    distance: int | None = None
    score: Score = Score(0)


def _find_refusal(
    validator: ValidatorEvidence, ids: Sequence[SubnetNodeId], params: ConsensusParams
) -> Reason | None:
    if validator.refusal is not None:
        return validator.refusal
    named = [node_id for node_id, _ in validator.scores]
    values = [score for _, score in validator.scores]
    is_sound = (
        len(set(named)) == len(named)
        and set(named) <= set(ids)
        and all(value >= 0 for value in values)
        and sum(values) <= params.hoster_pool
    )
    return None if is_sound else Reason.INVALID_SCORES


def _as_vector(
    scores: Mapping[SubnetNodeId, Score], ids: Sequence[SubnetNodeId]
) -> tuple[int, ...]:
    return tuple(scores.get(node_id, 0) for node_id in ids)


def _judge_ballots(
    ballots: Sequence[_Ballot], attested: tuple[int, ...] | None, params: ConsensusParams
) -> dict[SubnetNodeId, _Judgement]:
    """Gate by the distance to the centre, then score by the distance to the mean behind it."""
    gate = params.hoster_pool // params.validator_gate_divisor
    votes = [ballots[row] for row in choose_votes([ballot.coldkey for ballot in ballots])]
    has_quorum = len(votes) > MAX_VOTES_WITHOUT_CENTRE
    centre = _compute_lower_median(votes) if has_quorum else attested
    if centre is None:
        return {ballot.node_id: _Judgement(Reason.NO_CENTRE) for ballot in ballots}
    distances = {ballot.node_id: _compute_error(ballot, centre, weight=1) for ballot in ballots}
    # The mean stays a sum with its weight, so that nothing is rounded before the last step.
    total, weight = centre, 1
    if has_quorum:
        near = [vote for vote in votes if distances[vote.node_id] <= gate]
        total, weight = _sum_votes(near, size=len(centre)), len(near)
    num_accepted = sum(distance <= gate for distance in distances.values())
    judged = {}
    for ballot in ballots:
        distance = distances[ballot.node_id]
        if distance > gate:
            judged[ballot.node_id] = _Judgement(Reason.OUTSIDE_TOLERANCE, distance)
        elif weight == 0:
            # Near the median, yet no vote is: there is no mean to be scored against.
            judged[ballot.node_id] = _Judgement(Reason.NO_CENTRE, distance)
        else:
            error = _compute_error(ballot, total, weight=weight)
            score = _compute_validator_score(error, gate * weight, num_accepted, params)
            judged[ballot.node_id] = _Judgement(None, distance, score)
    return judged


def _compute_lower_median(votes: Sequence[_Ballot]) -> tuple[int, ...]:
    columns = zip(*(vote.vector for vote in votes), strict=True)
    return tuple(sorted(column)[(len(votes) - 1) // 2] for column in columns)


def _sum_votes(votes: Sequence[_Ballot], *, size: int) -> tuple[int, ...]:
    return tuple(sum(vote.vector[column] for vote in votes) for column in range(size))


def _compute_error(ballot: _Ballot, total: Sequence[int], *, weight: int) -> int:
    """Return ``weight`` times the L2 distance to ``total / weight``, rounded down."""
    pairs = zip(ballot.vector, total, strict=True)
    return math.isqrt(sum((weight * own - summed) ** 2 for own, summed in pairs))


def _compute_validator_score(
    error: int, scaled_gate: int, num_accepted: int, params: ConsensusParams
) -> Score:
    base = params.validator_base
    raw = base * max(0, scaled_gate - error) // scaled_gate
    return Score(params.validator_pool * raw // (num_accepted * base))
