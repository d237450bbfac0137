"""From what counts of an epoch to the score of each node, in exact integers.

Layers share the hosters' pool equally, so an under-served layer pays more per hoster. The scale is
absolute, so bad work does not inherit what it displaces, and a layer that no hoster serves pays
nothing. Validators share a quarter of what hosters are paid: for scores that agree with those of
the others, and for audits. Each score comes with the reasons that made it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from consensus.agreement import (
    Answer,
    LayerScores,
    Verdict,
    compute_layer_scores,
)
from consensus.challenge import (
    ModelShape,
    compute_owed_layers,
    compute_vector_length,
    decode_vector,
)
from consensus.commitment import compute_tag
from consensus.errors import InvalidVector, Reason
from consensus.protocol_params import ConsensusParams
from consensus.records import ScoreRow
from consensus.types import SCORE_ONE, BlockNumber, LayerRange, Score, SubnetNodeId


@dataclass(frozen=True, slots=True)
class HosterEvidence:
    """What counts of one hoster with an accepted output commit.

    ``vectors`` are the encoded vectors of a reveal that opened its commitment, one for each
    owed layer; empty if ``refusal`` says why there is none. ``committed_at`` and
    ``revealed_at`` are the heads at which this node first saw the records.
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

    ``total`` is the sum of its layers' scores before they are divided among those that share a
    layer. ``distance`` is the largest one of its layers, None if no layer of it could be measured.
    ``refusal`` says why its reveal does not count, ``penalty`` why it is not paid at all.
    """

    node_id: SubnetNodeId
    layers: LayerRange
    committed_at: BlockNumber | None
    revealed_at: BlockNumber | None
    refusal: Reason | None
    distance: int | None
    score: Score
    total: Score
    reasons: tuple[LayerReason, ...]
    penalty: Reason | None = None


@dataclass(frozen=True, slots=True)
class HosterScores:
    """One report for each hoster, sorted by node id.

    ``refuted`` contradict the audits, ``withheld`` did not reveal a drawn layer, and the reference
    rows of ``backed`` agree with those of the others on every drawn layer.
    """

    reports: tuple[HosterReport, ...]
    refuted: frozenset[SubnetNodeId] = frozenset()
    withheld: frozenset[SubnetNodeId] = frozenset()
    backed: frozenset[SubnetNodeId] = frozenset()

    @property
    def scores(self) -> dict[SubnetNodeId, Score]:
        return {report.node_id: report.score for report in self.reports}


@dataclass(frozen=True, slots=True)
class ValidatorEvidence:
    """What counts of one validator's scores of the epoch before; ``refusal`` if they do not."""

    node_id: SubnetNodeId
    coldkey: bytes
    committed_at: BlockNumber | None = None
    revealed_at: BlockNumber | None = None
    rows: tuple[ScoreRow, ...] = ()
    refusal: Reason | None = None


@dataclass(frozen=True, slots=True)
class RowReason:
    """What one validator's row about one hoster is worth: ``refusal`` is None if it is right."""

    hoster: SubnetNodeId
    total: Score | None
    expected: Score | None
    refusal: Reason | None


@dataclass(frozen=True, slots=True)
class ValidatorReport:
    """What one validator's work is worth.

    ``accuracy`` is the share of its score rows that are right, at 10**18. ``score_share`` and
    ``audit_share`` are what it is paid for each; ``audit_refusal`` says why its reference rows do
    not count, None too where it owed none.
    """

    node_id: SubnetNodeId
    committed_at: BlockNumber | None
    revealed_at: BlockNumber | None
    refusal: Reason | None
    accuracy: Score
    rows: tuple[RowReason, ...] = ()
    score_share: Score = Score(0)
    audit_share: Score = Score(0)
    audit_refusal: Reason | None = None

    @property
    def score(self) -> Score:
        return Score(self.score_share + self.audit_share)


def compute_hoster_scores(
    evidence: Sequence[HosterEvidence],
    *,
    shape: ModelShape,
    params: ConsensusParams,
    references: Mapping[int, Sequence[Answer]] | None = None,
    probation: Collection[SubnetNodeId] = (),
    unpaid: Collection[SubnetNodeId] = (),
) -> HosterScores:
    """Score every hoster of an epoch: the sum of its shares over the layers it serves.

    ``references`` are the validators' answers to each drawn layer, none where no validator answered
    it. Nodes on ``probation`` have no vote and no pay; ``unpaid`` hosters have no pay. Raises
    ValueError if one node appears twice, or with another number of vectors than it owes.
    """
    _check_evidence(evidence, shape)
    drawn = references or {}
    voiceless = frozenset(probation)
    first = {
        layer: _judge_layer(evidence, layer, shape, params, answers, voiceless)
        for layer, answers in drawn.items()
    }
    withheld = frozenset(
        hoster.node_id
        for hoster in evidence
        if hoster.refusal is not None and set(_compute_owed(hoster, shape)) & drawn.keys()
    )
    refuted = frozenset().union(*[judged.refuted for judged in first.values()]) - withheld
    penalties = (
        dict.fromkeys(unpaid, Reason.NOT_SERVING)
        | dict.fromkeys(withheld, Reason.WITHHELD)
        | dict.fromkeys(refuted, Reason.REFUTED)
        | dict.fromkeys(voiceless, Reason.ON_PROBATION)
    )
    # Refuted nodes have no vote on any layer, the drawn ones included.
    voiceless |= refuted
    pool = compute_layer_pool(shape, params)
    reasons: dict[SubnetNodeId, list[LayerReason]] = {hoster.node_id: [] for hoster in evidence}
    for layer in shape.challenged_layers:
        judged = first.get(layer)
        if judged is None or refuted:
            answers = drawn.get(layer, ())
            judged = _judge_layer(evidence, layer, shape, params, answers, voiceless)
        for reason in _divide_layer(judged, layer, pool, penalties):
            reasons[reason.node_id].append(reason)
    ordered = sorted(evidence, key=lambda hoster: hoster.node_id)
    reports = tuple(
        replace(
            _report_hoster(hoster, reasons[hoster.node_id]), penalty=penalties.get(hoster.node_id)
        )
        for hoster in ordered
    )
    backed = [judged.backed for judged in first.values()]
    return HosterScores(
        reports, refuted, withheld, frozenset.intersection(*backed) if backed else frozenset()
    )


def compute_layer_pool(shape: ModelShape, params: ConsensusParams) -> Score:
    """Return what one layer pays in all; the head counts as a layer."""
    return Score(params.hoster_pool // len(shape.challenged_layers))


def compute_share(score: Score, num_valid: int, pool: Score) -> Score:
    """Return what one answer of this score earns of its layer's pool."""
    return Score(pool * score // (num_valid * SCORE_ONE)) if num_valid else Score(0)


def compute_accuracies(
    evidence: Sequence[ValidatorEvidence],
    *,
    reveal_hashes: Mapping[SubnetNodeId, bytes],
    params: ConsensusParams,
) -> tuple[ValidatorReport, ...]:
    """Return how many of each validator's rows are right, sorted by node id; nothing is paid yet.

    ``reveal_hashes`` are those of the accepted output reveals that the scores are about; no other
    row is judged, because what some saw and others did not is no validator's fault. A row has a
    vote if its tag names the accepted reveal, one per coldkey. A row is expected for each reveal
    whose lower median of the votes is above 0; with fewer than ``min_score_votes`` votes, for each.
    It is right if its tag is, and its total is near the median, if there is one. A non-zero row
    whose median is 0 is wrong. Raises ValueError if one validator appears twice.
    """
    ordered = sorted(evidence, key=lambda validator: validator.node_id)
    if len({validator.node_id for validator in ordered}) != len(ordered):
        raise ValueError("a validator reveals its scores once")
    expected = _compute_expected(_choose_score_votes(ordered), reveal_hashes, params)
    return tuple(
        ValidatorReport(
            validator.node_id,
            validator.committed_at,
            validator.revealed_at,
            validator.refusal,
            *_judge_rows(validator, expected, reveal_hashes, params),
        )
        for validator in ordered
    )


def pay_validators(
    reports: Sequence[ValidatorReport],
    *,
    coldkeys: Mapping[SubnetNodeId, bytes],
    audits: Mapping[SubnetNodeId, Reason | None],
    paid_to_hosters: Score,
    params: ConsensusParams,
) -> tuple[ValidatorReport, ...]:
    """Return the reports with what each validator is paid, sorted by node id.

    Validators share a quarter of what hosters are paid, half of it for scores and half for audits,
    each divided among the coldkeys that earned it; a coldkey's part goes to its first node.
    ``audits`` holds the validators with an audit commit: None where the reference rows count.
    Where fewer than two coldkeys have such rows, all of it is for scores.
    """
    by_node = {report.node_id: report for report in reports}
    for node_id, refusal in audits.items():
        report = by_node.get(node_id) or ValidatorReport(
            node_id, None, None, Reason.NO_COMMIT, Score(0)
        )
        by_node[node_id] = replace(report, audit_refusal=refusal)
    pool = paid_to_hosters // params.validator_pool_divisor
    auditors = _find_first_of_coldkeys(
        (node_id for node_id, refusal in audits.items() if refusal is None), coldkeys
    )
    opened = {coldkeys[node_id] for node_id, refusal in audits.items() if _has_opened(refusal)}
    audit_pool = pool // 2 if len(opened) >= params.min_references else 0
    scorers = _find_first_of_coldkeys(
        (report.node_id for report in reports if report.accuracy), coldkeys
    )
    for node_id in scorers:
        accuracy = by_node[node_id].accuracy
        share = (pool - audit_pool) * accuracy // (len(scorers) * SCORE_ONE)
        by_node[node_id] = replace(by_node[node_id], score_share=Score(share))
    for node_id in auditors:
        share = audit_pool // len(auditors)
        by_node[node_id] = replace(by_node[node_id], audit_share=Score(share))
    return tuple(by_node[node_id] for node_id in sorted(by_node))


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


def _judge_layer(
    evidence: Sequence[HosterEvidence],
    layer: int,
    shape: ModelShape,
    params: ConsensusParams,
    references: Sequence[Answer],
    voiceless: Collection[SubnetNodeId],
) -> LayerScores:
    answers = [
        _decode_answer(hoster, layer, shape, params)
        for hoster in evidence
        if layer in _compute_owed(hoster, shape)
    ]
    return compute_layer_scores(
        answers,
        length=compute_vector_length(layer, shape, params),
        params=params,
        scale=shape.scale_of(layer),
        references=references,
        voiceless=voiceless,
    )


def _divide_layer(
    judged: LayerScores, layer: int, pool: Score, penalties: Mapping[SubnetNodeId, Reason]
) -> list[LayerReason]:
    """Divide a layer's pool among the valid answers of nodes that are paid."""
    num_paid = sum(
        answer.refusal is None and answer.node_id not in penalties for answer in judged.answers
    )
    return [
        LayerReason(
            node_id=answer.node_id,
            layer=layer,
            verdict=judged.verdict,
            refusal=answer.refusal,
            distance=answer.distance,
            score=answer.score,
            share=Score(0)
            if answer.node_id in penalties
            else compute_share(answer.score, num_paid, pool),
        )
        for answer in judged.answers
    ]


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
        total=Score(sum(reason.score for reason in reasons)),
        reasons=tuple(reasons),
    )


def _choose_score_votes(ordered: Sequence[ValidatorEvidence]) -> list[ValidatorEvidence]:
    """Return one opened reveal per coldkey, its first."""
    votes: dict[bytes, ValidatorEvidence] = {}
    for validator in ordered:
        if validator.refusal is None:
            votes.setdefault(validator.coldkey, validator)
    return list(votes.values())


def _compute_expected(
    votes: Sequence[ValidatorEvidence],
    reveal_hashes: Mapping[SubnetNodeId, bytes],
    params: ConsensusParams,
) -> dict[SubnetNodeId, Score | None]:
    """Return the median total of each expected row; None where too few votes make no median."""
    totals: dict[SubnetNodeId, list[Score]] = {node_id: [] for node_id in sorted(reveal_hashes)}
    for vote in votes:
        for row in vote.rows:
            reveal_hash = reveal_hashes.get(row.node_id)
            if reveal_hash is not None and row.tag == compute_tag(vote.node_id, reveal_hash):
                totals[row.node_id].append(row.total)
    expected: dict[SubnetNodeId, Score | None] = {}
    for node_id, voted in totals.items():
        if len(voted) < params.min_score_votes:
            expected[node_id] = None
        elif median := sorted(voted)[(len(voted) - 1) // 2]:
            expected[node_id] = median
    return expected


def _judge_rows(
    validator: ValidatorEvidence,
    expected: Mapping[SubnetNodeId, Score | None],
    reveal_hashes: Mapping[SubnetNodeId, bytes],
    params: ConsensusParams,
) -> tuple[Score, tuple[RowReason, ...]]:
    """Return the accuracy, and why each row is right or wrong."""
    own = {row.node_id: row for row in validator.rows}
    claimed = {row.node_id for row in validator.rows if row.total}
    reasons = []
    for node_id in sorted(expected.keys() | claimed & reveal_hashes.keys()):
        row, median = own.get(node_id), expected.get(node_id)
        refusal = None
        if node_id not in expected:
            refusal = Reason.OUTSIDE_TOLERANCE
        elif row is None:
            refusal = Reason.NOT_REVEALED
        elif row.tag != compute_tag(validator.node_id, reveal_hashes[node_id]):
            refusal = Reason.WRONG_TAG
        elif median is not None and not _is_near(row.total, median, params):
            refusal = Reason.OUTSIDE_TOLERANCE
        total = None if row is None else row.total
        reasons.append(RowReason(node_id, total, median, refusal))
    num_right = sum(reason.refusal is None for reason in reasons)
    is_scored = bool(expected) and validator.refusal is None
    return Score(SCORE_ONE * num_right // len(reasons) if is_scored else 0), tuple(reasons)


def _is_near(total: Score, median: Score, params: ConsensusParams) -> bool:
    return abs(total - median) << params.total_tolerance_bits <= median


def _has_opened(refusal: Reason | None) -> bool:
    """Whether an audit's reference rows were revealed, be they right or wrong."""
    return refusal in (None, Reason.OUTSIDE_TOLERANCE)


def _find_first_of_coldkeys(
    node_ids: Iterable[SubnetNodeId], coldkeys: Mapping[SubnetNodeId, bytes]
) -> list[SubnetNodeId]:
    first: dict[bytes, SubnetNodeId] = {}
    for node_id in sorted(node_ids):
        first.setdefault(coldkeys[node_id], node_id)
    return list(first.values())
