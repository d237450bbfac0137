"""Judging one layer: what honest hosters get, and what no minority can take from them."""

import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consensus.agreement import Answer, Verdict, compute_layer_scores
from consensus.challenge import decode_vector
from consensus.errors import InvalidVector, Reason
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.types import SCORE_ONE
from tests.vectors import reference

LENGTH = 16
TOLERANCE = 2.0**-12
ATTACKS = st.integers(0, 2**32 - 1)


def honest_vectors(count, *, seed=1, length=LENGTH, noise=3e-6, scale=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=length) * scale
    norm = np.linalg.norm(truth)
    rows = []
    for _ in range(count):
        error = rng.normal(size=length)
        rows.append((truth + error / np.linalg.norm(error) * noise * norm).astype(np.float32))
    return rows


def garbage(seed=99, length=LENGTH):
    return np.random.default_rng(seed).normal(size=length).astype(np.float32)


def answers_of(vectors, coldkeys=None):
    keys = coldkeys or [bytes([row]) * 20 for row in range(len(vectors))]
    return [Answer(row, keys[row], vector) for row, vector in enumerate(vectors)]


def judge(vectors, coldkeys=None, length=LENGTH):
    answers = answers_of([np.asarray(vector, np.float32) for vector in vectors], coldkeys)
    return compute_layer_scores(answers, length=length, params=MAINNET)


def scores_of(result):
    return [answer.score for answer in result.answers]


def refusals_of(result):
    return [answer.refusal for answer in result.answers]


# What honest work is worth


@pytest.mark.parametrize("count", [3, 5, 17])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_honest_hosters_score_almost_one_at_every_scale(count, scale):
    result = judge(honest_vectors(count, scale=scale, length=64), length=64)
    assert result.verdict is Verdict.OK
    assert result.num_valid == count
    assert min(scores_of(result)) > 0.97 * SCORE_ONE


def test_identical_answers_score_exactly_one():
    result = judge([garbage()] * 4)
    assert scores_of(result) == [SCORE_ONE] * 4
    assert [answer.distance for answer in result.answers] == [0] * 4


def test_score_is_one_half_at_distance_d0():
    from consensus.agreement import compute_score

    assert compute_score(0, MAINNET) == SCORE_ONE
    assert compute_score(244140625, MAINNET) == SCORE_ONE // 2
    assert compute_score(3 * 244140625, MAINNET) == SCORE_ONE // 4


def test_int8_weights_are_outside_the_tolerance():
    vectors = honest_vectors(5)
    vectors += honest_vectors(1, noise=3.3e-3)
    result = judge(vectors)
    assert refusals_of(result) == [None] * 5 + [Reason.OUTSIDE_TOLERANCE]


# Votes and verdicts


def test_nobody_answers():
    result = compute_layer_scores([], length=LENGTH, params=MAINNET)
    assert (result.verdict, result.num_votes, result.answers) == (Verdict.EMPTY, 0, ())


def test_only_invalid_answers_leave_the_layer_empty():
    answers = [
        Answer(1, b"a", np.full(LENGTH, np.nan, np.float32)),
        Answer(2, b"b", refusal=Reason.NOT_REVEALED),
    ]
    result = compute_layer_scores(answers, length=LENGTH, params=MAINNET)
    assert result.verdict is Verdict.EMPTY
    assert refusals_of(result) == [Reason.INVALID_VECTOR, Reason.NOT_REVEALED]


def test_a_single_hoster_is_its_own_majority():
    result = judge([garbage()])
    assert result.verdict is Verdict.OK
    assert scores_of(result) == [SCORE_ONE]


def test_two_honest_hosters_are_a_majority():
    assert judge(honest_vectors(2)).verdict is Verdict.OK


def test_one_garbage_of_two_abstains():
    result = judge([*honest_vectors(1), garbage()])
    assert result.verdict is Verdict.ABSTAIN
    assert scores_of(result) == [0, 0]
    assert refusals_of(result) == [Reason.NO_MAJORITY] * 2


@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("factor", [1.0, 1e-3, 200.0])
def test_one_garbage_of_three_or_six_takes_nothing(count, factor):
    vectors = [*honest_vectors(count - 1), garbage() * factor]
    result = judge(vectors)
    assert result.verdict is Verdict.OK
    assert refusals_of(result) == [None] * (count - 1) + [Reason.OUTSIDE_TOLERANCE]
    assert min(scores_of(result)[:-1]) > 0.97 * SCORE_ONE


def test_half_colluders_make_the_layer_abstain():
    result = judge([*honest_vectors(3), *[garbage()] * 3])
    assert result.verdict is Verdict.ABSTAIN
    assert set(scores_of(result)) == {0}


def test_three_colluders_of_five_win_without_audits():
    # No rule on outputs alone can tell which majority is honest; audits add deciding votes.
    result = judge([*honest_vectors(2), *[garbage()] * 3])
    assert refusals_of(result) == [Reason.OUTSIDE_TOLERANCE] * 2 + [None] * 3


def test_three_colluders_of_five_with_one_coldkey_take_nothing():
    coldkeys = [b"h1", b"h2", b"evil", b"evil", b"evil"]
    result = judge([*honest_vectors(2), *[garbage()] * 3], coldkeys)
    assert result.num_votes == 3
    assert refusals_of(result) == [None] * 2 + [Reason.OUTSIDE_TOLERANCE] * 3


def test_every_coldkey_votes_with_its_lowest_valid_node():
    vectors = honest_vectors(4)
    vectors[0] = np.full(LENGTH, np.inf, np.float32)
    result = judge(vectors, [b"a", b"b", b"a", b"a"])
    assert result.num_votes == 2
    assert refusals_of(result) == [Reason.INVALID_VECTOR, None, None, None]


def test_row_between_two_camps_does_not_make_a_majority():
    # Node 2 lies within tau of both votes, but they are not within tau of each other.
    base = np.zeros(LENGTH, np.float32)
    base[0] = 1.0
    low, high = base.copy(), base.copy()
    low[1], high[1] = -0.75 * TOLERANCE, 0.75 * TOLERANCE
    result = judge([low, high, base], [b"a", b"b", b"b"])
    assert result.num_votes == 2
    assert result.verdict is Verdict.ABSTAIN
    assert set(refusals_of(result)) == {Reason.NO_MAJORITY}


# What peers may send


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2048.0, -2048.0, 1e38, -3e38], ids=str)
def test_one_poisoned_value_costs_its_sender_alone(value):
    poisoned = garbage()
    poisoned[3] = value
    result = judge([*honest_vectors(3), poisoned])
    assert refusals_of(result) == [None] * 3 + [Reason.INVALID_VECTOR]
    assert result.num_votes == 3


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(LENGTH - 1, np.float32),
        np.zeros((1, LENGTH), np.float32),
        np.zeros(LENGTH, np.float64),
        np.zeros(LENGTH, np.int64),
    ],
)
def test_another_shape_or_type_is_invalid(vector):
    answers = [*answers_of(honest_vectors(3)), Answer(7, b"x", vector)]
    result = compute_layer_scores(answers, length=LENGTH, params=MAINNET)
    assert refusals_of(result) == [None] * 3 + [Reason.INVALID_VECTOR]


def test_minus_zero_and_denormals_are_zero():
    one, two, three = np.zeros((3, LENGTH), np.float32)
    two[:] = -0.0
    three[:] = 1e-45
    assert scores_of(judge([one, two, three])) == [SCORE_ONE] * 3


def test_values_at_the_bound_stay_exact():
    largest = np.nextafter(np.float32(2048), np.float32(0))
    vectors = [np.full(LENGTH, largest, np.float32)] * 2 + [np.full(LENGTH, -largest, np.float32)]
    result = judge(vectors)
    assert refusals_of(result) == [None, None, Reason.OUTSIDE_TOLERANCE]


def scaled_vectors(scale):
    return [vector * np.float32(2.0**-scale) for vector in [*honest_vectors(3), garbage()]]


@pytest.mark.parametrize("scale", [-20, 5, 20])
def test_a_scaled_layer_is_judged_like_one_whose_answers_are_larger(scale):
    answers = answers_of(scaled_vectors(scale))
    result = compute_layer_scores(answers, length=LENGTH, params=MAINNET, scale=scale)
    assert result == judge(scaled_vectors(0))


def test_without_its_scale_honest_answers_of_a_layer_that_adds_little_round_apart():
    middle = 64.5 * 2.0**-20
    vectors = [np.full(LENGTH, middle * (1 + noise), np.float32) for noise in (1e-6, -1e-6, 1e-6)]
    coarse = compute_layer_scores(answers_of(vectors), length=LENGTH, params=MAINNET)
    fine = compute_layer_scores(answers_of(vectors), length=LENGTH, params=MAINNET, scale=17)
    assert refusals_of(coarse) == [None, Reason.OUTSIDE_TOLERANCE, None]
    assert refusals_of(fine) == [None] * 3


def test_a_vector_whose_scaled_values_pass_the_bound_is_invalid_and_has_no_vote():
    answers = answers_of([*honest_vectors(3), np.full(LENGTH, 2.0**7, np.float32)])
    result = compute_layer_scores(answers, length=LENGTH, params=MAINNET, scale=4)
    assert refusals_of(result) == [None] * 3 + [Reason.INVALID_VECTOR]
    assert result.num_votes == 3


def test_zero_median_divides_by_one():
    tiny = np.zeros(LENGTH, np.float32)
    tiny[0] = 2.0**-20
    result = judge([*[np.zeros(LENGTH)] * 3, tiny, np.full(LENGTH, 2047.0)])
    # One quantum is 2**28 residual units away from a zero median, far outside the tolerance.
    assert scores_of(result) == [SCORE_ONE] * 3 + [0, 0]
    assert refusals_of(result)[3:] == [Reason.OUTSIDE_TOLERANCE] * 2


# Attacks on the mean


@pytest.mark.parametrize("count", [5, 16, 64])
def test_mean_steering_by_two_takes_nothing(count):
    honest = honest_vectors(count - 2)
    target = garbage().astype(np.float64)
    total = np.sum(honest, axis=0, dtype=np.float64)
    steering = np.clip(count * target - total - target, -2000, 2000)
    result = judge([*honest, target, steering])
    assert refusals_of(result)[-2:] == [Reason.OUTSIDE_TOLERANCE] * 2
    assert min(scores_of(result)[:-2]) > 0.97 * SCORE_ONE


@pytest.mark.parametrize("count", [3, 5, 9, 17])
def test_minority_at_the_edge_of_the_tolerance_leaves_honest_two_thirds(count):
    honest = honest_vectors(count // 2 + 1)
    truth = honest[0].astype(np.float64)
    direction = np.zeros(LENGTH)
    direction[3] = np.linalg.norm(truth)
    edge = truth + direction * TOLERANCE * 0.97
    result = judge([*honest, *[edge] * (count // 2)])
    assert min(scores_of(result)[: len(honest)]) > 0.63 * SCORE_ONE
    assert max(scores_of(result)[len(honest) :]) <= max(scores_of(result)[: len(honest)])


@given(seed=ATTACKS, count=st.integers(3, 11))
@settings(max_examples=150, deadline=None)
def test_no_minority_can_zero_an_honest_hoster(seed, count):
    rng = np.random.default_rng(seed)
    num_evil = int(rng.integers(0, (count - 1) // 2 + 1))
    honest = honest_vectors(count - num_evil, seed=seed)
    truth = honest[0].astype(np.float64)
    evil = [adversary(rng, truth) for _ in range(num_evil)]
    result = judge([*honest, *evil])
    assert min(scores_of(result)[: len(honest)]) > 0.6 * SCORE_ONE


def adversary(rng, truth):
    kind = rng.integers(0, 6)
    if kind == 0:
        return np.full(truth.shape, rng.choice([np.nan, np.inf, 1e38, 2048.0]))
    if kind == 1:
        return np.clip(rng.normal(size=truth.shape) * 10.0 ** rng.uniform(-3, 3), -2000, 2000)
    if kind == 2:
        return np.zeros(truth.shape)
    direction = rng.normal(size=truth.shape)
    direction *= np.linalg.norm(truth) / np.linalg.norm(direction)
    return truth + direction * TOLERANCE * rng.choice([0.5, 0.9, 0.99, 1.0, 1.01, 2.0, 3.0])


# The same bytes on every machine


def random_layer(seed):
    """Adversarial answers around every threshold, as (node_id, coldkey, raw or None)."""
    rng = np.random.default_rng(seed)
    length = int(rng.choice([1, 2, 7, 16]))
    truth = rng.normal(size=length) * 10.0 ** rng.integers(-7, 3)
    if rng.random() < 0.1:
        truth[:] = 0.0
    answers = []
    for node_id in rng.permutation(int(rng.integers(0, 9))).tolist():
        coldkey = bytes([int(rng.integers(0, 6))])
        with np.errstate(over="ignore"):
            vector = adversary(rng, truth + 1e-30).astype("<f4")
        near = (truth * (1 + rng.normal() * rng.choice([1e-6, 1e-4, 2.0**-12]))).astype("<f4")
        raw = near.tobytes() if rng.random() < 0.5 else vector.tobytes()
        choice = rng.random()
        if choice < 0.05:
            raw = raw[:-1]
        answers.append((node_id, coldkey, None if choice > 0.95 else raw))
    return length, answers


def decode_answer(node_id, coldkey, raw, length):
    if raw is None:
        return Answer(node_id, coldkey, refusal=Reason.NOT_REVEALED)
    try:
        return Answer(node_id, coldkey, decode_vector(raw, length, MAINNET))
    except InvalidVector as error:
        return Answer(node_id, coldkey, refusal=error.reason)


def judge_raw(length, answers):
    decoded = [decode_answer(*answer, length) for answer in answers]
    result = compute_layer_scores(decoded, length=length, params=MAINNET)
    return result.verdict.value, {row.node_id: (row.score, row.distance) for row in result.answers}


@given(seed=ATTACKS)
@settings(max_examples=400, deadline=None)
@example(0)
def test_plain_integers_give_the_same_scores(seed):
    length, answers = random_layer(seed)
    assert judge_raw(length, answers) == reference.score_block(answers, length)


small = st.integers(-3, 3)


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.tuples(small, small)), max_size=7),
    scale=st.sampled_from([2.0**-20, 2.0**-19, 2.0**-13, 1.0, 2.0**-9]),
    base=st.sampled_from([0.0, 2.0**-20, 2.0**-7, 1.0, 1000.0]),
)
@settings(max_examples=300, deadline=None)
def test_plain_integers_agree_near_the_zero_median(rows, scale, base):
    answers = [
        (node, bytes([key]), struct.pack("<2f", base + scale * a, base - scale * b))
        for node, (key, (a, b)) in enumerate(rows)
    ]
    assert judge_raw(2, answers) == reference.score_block(answers, 2)


@given(seed=ATTACKS)
@settings(max_examples=50, deadline=None)
def test_order_of_arrival_changes_nothing(seed):
    length, answers = random_layer(seed)
    expected = judge_raw(length, answers)
    random.Random(seed).shuffle(answers)
    assert judge_raw(length, answers) == expected


HASH_SCRIPT = """
import hashlib, numpy as np
from consensus.agreement import Answer, compute_layer_scores
from consensus.protocol_params import MAINNET
rng = np.random.default_rng(3)
truth = rng.normal(size=2048)
answers = []
for node in range(48):
    noise = rng.normal(size=2048) * rng.choice([1e-6, 1e-4, 2.0**-12])
    answers.append(Answer(node, bytes([node % 40]), (truth + noise).astype(np.float32)))
print(hashlib.sha256(repr(compute_layer_scores(answers, length=2048, params=MAINNET)).encode())
      .hexdigest())
"""


def test_thread_count_and_processor_kernel_change_nothing():
    digests = set()
    for threads, core in (("1", ""), ("2", "Nehalem"), ("8", "Haswell")):
        settings_of = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        if core:
            settings_of["OPENBLAS_CORETYPE"] = core
        environment = {**os.environ, **settings_of}
        run = subprocess.run(
            [sys.executable, "-c", HASH_SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout)
    assert len(digests) == 1


# Our own mistakes


def test_two_answers_of_one_node_are_our_own_mistake():
    with pytest.raises(ValueError):
        compute_layer_scores(answers_of(honest_vectors(1)) * 2, length=LENGTH, params=MAINNET)


def test_an_answer_is_a_vector_or_a_refusal():
    with pytest.raises(ValueError):
        Answer(1, b"a")
    with pytest.raises(ValueError):
        Answer(1, b"a", garbage(), Reason.LATE)


@pytest.mark.parametrize(
    ("length", "params"),
    [
        (2**20, MAINNET),
        (16, ConsensusParams(residual_bits=36)),
        (16, ConsensusParams(value_bound_bits=14)),
        (2048, ConsensusParams(residual_bits=32)),
    ],
)
def test_numbers_that_would_not_be_exact_are_refused(length, params):
    with pytest.raises(ValueError):
        compute_layer_scores([], length=length, params=params)
