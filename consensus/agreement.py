"""Judging the answers to one layer's challenge, in exact integers.

Honest machines differ by a few millionths, so answers are compared by distance.
A single peer could move a plain mean to any point, so an answer is *valid* only if
it lies within tau of more than half of the votes (one per coldkey), and its score
is the distance to the mean of the valid votes. No minority can bring an honest
hoster's score to 0, or below about two thirds. On layers that validators compute too
(``consensus.audit``) their reference rows are votes like the hosters'.

The same answers give the same numbers on every machine, in any order: after
quantisation every number is an integer. The one float operation, a float64 matrix
product, sees only integers below 2**53, so it is exact with any library, thread
count and order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import is_below_bound
from consensus.errors import Reason
from consensus.protocol_params import ConsensusParams
from consensus.types import SCORE_ONE, Score, SubnetNodeId

DISTANCE_ONE = 10**12
"""Distances are relative L2, in units of 1e-12."""
_EXACT_FLOAT = 2**53


class Verdict(Enum):
    """What the votes on one layer amount to."""

    OK = "ok"
    ABSTAIN = "abstain"
    """No vote has a majority near it: the layer pays nothing."""
    EMPTY = "empty"
    """No answer is structurally valid."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One hoster's answer to one layer: float32 [length], or the reason why there is none."""

    node_id: SubnetNodeId
    coldkey: bytes
    vector: NDArray[np.float32] | None = None
    refusal: Reason | None = None

    def __post_init__(self) -> None:
        if (self.vector is None) == (self.refusal is None):
            raise ValueError("an answer is either a vector or a refusal")


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """The score of one answer. Valid exactly if ``refusal`` is None.

    ``distance`` is the relative L2 distance to the mean of the valid votes, in 1e-12.
    """

    node_id: SubnetNodeId
    refusal: Reason | None
    distance: int | None
    score: Score


@dataclass(frozen=True, slots=True)
class LayerScores:
    """The judgement of one layer; ``answers`` are the hosters', sorted by node id.

    ``backed`` are the validators whose reference row agrees with more than half of the votes.
    ``refuted`` are the hosters that contradict what the votes and the references agree on.
    """

    verdict: Verdict
    num_votes: int
    answers: tuple[AnswerScore, ...]
    backed: frozenset[SubnetNodeId] = frozenset()
    refuted: frozenset[SubnetNodeId] = frozenset()

    @property
    def num_valid(self) -> int:
        """How many answers share the layer's pool."""
        return sum(answer.refusal is None for answer in self.answers)


def compute_layer_scores(
    answers: Sequence[Answer],
    *,
    length: int,
    params: ConsensusParams,
    scale: int = 0,
    references: Sequence[Answer] = (),
    voiceless: Collection[SubnetNodeId] = (),
) -> LayerScores:
    """Judge all answers to one layer whose vectors have ``length`` coordinates.

    ``scale`` is the layer's: vectors are multiplied by ``2**scale`` before they are quantised.
    ``references`` are the validators' answers to a drawn layer. Nodes in ``voiceless`` are judged
    and have no vote. Raises ValueError for two answers of one node, or for numbers at which the
    arithmetic would not be exact: ours, never a peer's.
    """
    _check_exactness(length, params)
    ordered = sorted(answers, key=lambda answer: answer.node_id)
    if len({answer.node_id for answer in (*ordered, *references)}) != len(answers) + len(
        references
    ):
        raise ValueError("a node answers a layer once")
    sound = [answer for answer in ordered if is_valid_structure(answer, length, params, scale)]
    reviewed = [
        answer for answer in references if is_valid_structure(answer, length, params, scale)
    ]
    # The references come first, so a coldkey that has one votes with it.
    rows = sorted(reviewed, key=lambda answer: answer.node_id) + sound
    votes = choose_votes(rows, voiceless)
    if not votes:
        return _judge_without_votes(ordered, sound)
    outputs = quantise(rows, params, scale)
    residuals = compute_residuals(outputs, votes, params)
    speakers = [row for row in votes if row < len(reviewed)]
    agreement = _Agreement(residuals, votes, speakers, params)
    distances = compute_distances(residuals, agreement.valid, votes, params)
    verdict = Verdict.OK if distances else Verdict.ABSTAIN
    places = {answer.node_id: row for row, answer in enumerate(rows)}
    scored = tuple(
        _score_candidate(answer, distances.get(places[answer.node_id]), verdict, params)
        if answer.node_id in places
        else _score_invalid(answer)
        for answer in ordered
    )
    return LayerScores(
        verdict,
        len(votes),
        scored,
        frozenset(
            answer.node_id
            for row, answer in enumerate(rows[: len(reviewed)])
            if agreement.valid[row]
        ),
        frozenset(
            answer.node_id for answer in ordered if agreement.is_refuted(places.get(answer.node_id))
        ),
    )


def is_valid_structure(
    answer: Answer, length: int, params: ConsensusParams, scale: int = 0
) -> bool:
    """Whether the answer is a vector of the right length, finite and, scaled, below the bound."""
    vector = answer.vector
    return (
        vector is not None
        and vector.dtype == np.float32
        and vector.shape == (length,)
        and is_below_bound(vector, params, scale)
    )


def choose_votes(answers: Sequence[Answer], voiceless: Collection[SubnetNodeId]) -> list[int]:
    """Return one row per coldkey, its first that is not of a node in ``voiceless``."""
    first_of_coldkey: dict[bytes, int] = {}
    for row, answer in enumerate(answers):
        if answer.node_id not in voiceless:
            first_of_coldkey.setdefault(answer.coldkey, row)
    return sorted(first_of_coldkey.values())


def quantise(
    answers: Sequence[Answer], params: ConsensusParams, scale: int = 0
) -> NDArray[np.int64]:
    """Return the vectors in units of ``2**-(fixed_point_bits + scale)``, int64 [rows, length].

    Ties go to even. What the layer adds may be small: its scale makes the unit small beside it.
    """
    vectors = np.stack([answer.vector for answer in answers if answer.vector is not None])
    # A power-of-two scale is exact in float64, and so is rounding to an integer below 2**31.
    scaled = vectors.astype(np.float64) * 2.0 ** (params.fixed_point_bits + scale)
    return np.rint(scaled).astype(np.int64)


def compute_residuals(
    outputs: NDArray[np.int64], votes: Sequence[int], params: ConsensusParams
) -> NDArray[np.int64]:
    """Return ``floor((q - m) * 2**residual_bits / |m|)``, int64 [rows, length].

    ``m`` is the votes' coordinate-wise lower median and ``|m|`` its norm, at least 1:
    distances are relative, so they mean the same for every width, layer and scale.
    """
    middle = (len(votes) - 1) // 2
    median = np.partition(outputs[list(votes)], middle, axis=0)[middle]
    norm = max(1, math.isqrt(sum_squares(median)))
    # |q - m| < 2**32 and residual_bits is 28: below 2**60.
    scaled: NDArray[np.int64] = ((outputs - median) << params.residual_bits) // norm
    return scaled


def compute_distances(
    residuals: NDArray[np.int64],
    valid: NDArray[np.bool_],
    votes: Sequence[int],
    params: ConsensusParams,
) -> dict[int, int]:
    """Return row -> distance to the mean of the valid votes, for each valid row.

    Empty if no vote is valid: a row between two camps is near both, but no majority stands
    behind a mean.
    """
    valid_votes = [row for row in votes if valid[row]]
    if not valid_votes:
        return {}
    count = len(valid_votes)
    # Rounded half up.
    mean = (2 * residuals[valid_votes].sum(axis=0) + count) // (2 * count)
    rows = np.flatnonzero(valid)
    squares = ((residuals[rows] - mean) ** 2).sum(axis=1)
    # Python's integers have no limit.
    return {
        row: math.isqrt((squared * DISTANCE_ONE**2) >> (2 * params.residual_bits))
        for row, squared in zip(rows.tolist(), squares.tolist(), strict=True)
    }


class _Agreement:
    """Which rows of one layer lie within tau of each other.

    ``votes`` and ``references`` are rows; the references are those votes that are validators'.
    """

    def __init__(
        self,
        residuals: NDArray[np.int64],
        votes: Sequence[int],
        references: Sequence[int],
        params: ConsensusParams,
    ) -> None:
        radius = _compute_radius(params)
        # A valid row agrees with a majority of the votes, and in each coordinate a majority has
        # a member on either side of the median: no residual of a valid row passes the radius, and
        # none of a row that agrees with it passes twice that. Farther rows decide nothing, and
        # without them every number below is an integer that float64 holds exactly.
        near = np.flatnonzero((np.abs(residuals) <= 2 * radius).all(axis=1))
        rows = residuals[near].astype(np.float64)
        norms = (rows * rows).sum(axis=1)
        squared = norms[:, None] + norms[None, :] - 2.0 * (rows @ rows.T)
        self._near = near
        self._agrees = squared <= float(radius**2)
        self._is_enough = len(references) >= params.min_references
        self._by_votes = self._has_majority(votes)
        self._by_references = self._has_majority(references)
        self.valid = np.zeros(len(residuals), dtype=np.bool_)
        """Whether each row lies within tau of more than half of the votes, bool [rows]."""
        self.valid[near] = self._by_votes

    def is_refuted(self, row: int | None) -> bool:
        """Whether a row is far from all that both majorities agree with; None is no vector."""
        truth = self._by_votes & self._by_references
        if not self._is_enough or not truth.any():
            return False
        if row is None:
            return True
        agreeing = self._agrees[self._near == row]
        return not bool(agreeing[:, truth].any())

    def _has_majority(self, voters: Sequence[int]) -> NDArray[np.bool_]:
        """Return for each near row whether more than half of ``voters`` agree with it."""
        columns = np.isin(self._near, np.asarray(voters, dtype=np.intp))
        majority: NDArray[np.bool_] = 2 * self._agrees[:, columns].sum(axis=1) > len(voters)
        return majority


def sum_squares(values: NDArray[np.int64]) -> int:
    """Return the exact sum of squares of at most 2**20 values below 2**32 in magnitude."""
    high, low = values >> 16, values & 0xFFFF
    return (
        (int((high * high).sum()) << 32) + (int((high * low).sum()) << 17) + int((low * low).sum())
    )


def compute_score(distance: int, params: ConsensusParams) -> Score:
    """Return ``d0 / (d0 + d)``: 1 / (1 + distance), with the distance in units of d0."""
    half_score_distance = DISTANCE_ONE >> params.tolerance_bits
    return Score(SCORE_ONE * half_score_distance // (half_score_distance + distance))


def _score_candidate(
    answer: Answer, distance: int | None, verdict: Verdict, params: ConsensusParams
) -> AnswerScore:
    if distance is not None:
        return AnswerScore(answer.node_id, None, distance, compute_score(distance, params))
    abstains = verdict is Verdict.ABSTAIN
    refusal = Reason.NO_MAJORITY if abstains else Reason.OUTSIDE_TOLERANCE
    return AnswerScore(answer.node_id, refusal, None, Score(0))


def _judge_without_votes(ordered: Sequence[Answer], sound: Sequence[Answer]) -> LayerScores:
    """Return the judgement of a layer without a vote: no sound vector, or none that has a voice."""
    verdict = Verdict.ABSTAIN if sound else Verdict.EMPTY
    unheard = {answer.node_id for answer in sound}
    judged = tuple(
        AnswerScore(answer.node_id, Reason.NO_MAJORITY, None, Score(0))
        if answer.node_id in unheard
        else _score_invalid(answer)
        for answer in ordered
    )
    return LayerScores(verdict, 0, judged)


def _score_invalid(answer: Answer) -> AnswerScore:
    return AnswerScore(answer.node_id, answer.refusal or Reason.INVALID_VECTOR, None, Score(0))


def _compute_radius(params: ConsensusParams) -> int:
    """tau in units of the residuals."""
    return 1 << (params.residual_bits - params.tolerance_bits)


def _check_exactness(length: int, params: ConsensusParams) -> None:
    # Near rows have norms of at most 2 * radius * sqrt(length), and the distance of two of
    # them at most twice that.
    if 16 * _compute_radius(params) ** 2 * length > _EXACT_FLOAT:
        raise ValueError(f"vectors of {length} coordinates are too long for exact products")
    if params.value_bound_bits + params.fixed_point_bits + 1 + params.residual_bits > 62:
        raise ValueError("residuals would not fit 64 bits")
    if params.value_bound_bits + params.fixed_point_bits > 32 or length > 2**20:
        raise ValueError("the norm of the median would not fit 64 bits")
