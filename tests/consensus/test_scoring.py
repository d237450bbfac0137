"""From judged layers to paid nodes: shares, roles, and validators' scores of hosters."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.agreement import Verdict
from consensus.challenge import ModelShape, encode_vector
from consensus.epoch import compute_first_rows
from consensus.errors import Reason
from consensus.protocol_params import MAINNET
from consensus.roster import Roster, RosterNode
from consensus.scoring import (
    HosterEvidence,
    ValidatorEvidence,
    compute_hoster_scores,
    compute_layer_pool,
    compute_proposal_rows,
    compute_validator_scores,
)
from consensus.types import SCORE_ONE, LayerRange, NodeClass
from tests.vectors import reference

SHAPE = ModelShape(num_layers=3, hidden_size=8, vocab_size=8)
POOL = compute_layer_pool(SHAPE, MAINNET)
TRUTH = {
    layer: np.random.default_rng(layer).normal(size=8).astype(np.float32) for layer in range(4)
}
WRONG = np.full(8, 3.0, np.float32)
GATE = MAINNET.hoster_pool // 10


def hoster(node_id, start=0, end=3, *, wrong=(), coldkey=None, **changes):
    owed = range(start, end + (end == SHAPE.num_layers))
    vectors = tuple(encode_vector(WRONG if layer in wrong else TRUTH[layer]) for layer in owed)
    fields = {
        "node_id": node_id,
        "coldkey": coldkey or bytes([node_id]) * 20,
        "layers": LayerRange(start, end),
        "committed_at": 40,
        "revealed_at": 55,
        "vectors": vectors,
    }
    return HosterEvidence(**(fields | changes))


def silent(node_id, refusal, start=0, end=3):
    return HosterEvidence(
        node_id, bytes([node_id]) * 20, LayerRange(start, end), committed_at=40, refusal=refusal
    )


def score(evidence):
    return compute_hoster_scores(evidence, shape=SHAPE, params=MAINNET)


def list_reasons(result):
    return [reason for report in result.reports for reason in report.reasons]


def validator(node_id, scores, *, coldkey=None, **changes):
    rows = tuple(sorted(scores.items())) if isinstance(scores, dict) else tuple(scores)
    return ValidatorEvidence(node_id, coldkey or bytes([node_id]) * 20, scores=rows, **changes)


def score_validators(evidence, *, ids=range(1, 10), attested=None):
    return compute_validator_scores(
        evidence, node_ids=tuple(ids), attested=attested, params=MAINNET
    )


# Hosters


def test_identical_hosters_of_everything_share_the_pool():
    result = score([hoster(node) for node in (1, 2, 3, 4)])
    assert set(result.scores.values()) == {4 * (POOL // 4)}
    assert sum(result.scores.values()) <= MAINNET.hoster_pool
    assert set(result.verdicts.values()) == {Verdict.OK}


def test_the_head_counts_as_a_layer():
    assert len(SHAPE.challenged_layers) == 4
    assert compute_layer_pool(SHAPE, MAINNET) == MAINNET.hoster_pool // 4
    assert sorted(score([]).verdicts) == [0, 1, 2, 3]


def test_no_hoster_means_empty_layers_and_nobody_paid():
    result = score([])
    assert result.scores == {}
    assert set(result.verdicts.values()) == {Verdict.EMPTY}


def test_under_served_layer_pays_more_per_hoster():
    result = score(
        [hoster(node, 0, 1) for node in (1, 2, 3, 4, 5, 6)]
        + [hoster(node, 1, 2) for node in (7, 8, 9)]
    )
    assert result.scores[1] == POOL // 6
    assert result.scores[7] == POOL // 3
    assert result.verdicts[2] is Verdict.EMPTY


@pytest.mark.parametrize("count", [1, 2])
def test_low_redundancy_halves_each_share(count):
    result = score([hoster(node, 0, 1) for node in range(count)])
    assert result.verdicts[0] is Verdict.LOW_REDUNDANCY
    assert set(result.scores.values()) == {POOL // count // 2}


def test_two_nodes_of_one_coldkey_are_still_low_redundancy():
    result = score([hoster(node, 0, 1, coldkey=b"same") for node in (1, 2, 3)])
    assert result.verdicts[0] is Verdict.LOW_REDUNDANCY
    assert result.scores[1] == POOL // 3 // 2


def test_wrong_layer_costs_that_layer_alone():
    result = score([hoster(1), hoster(2), hoster(3), hoster(4, wrong={1})])
    share = POOL // 4
    assert result.scores[4] == 3 * share
    assert result.scores[1] == 3 * share + POOL // 3
    reason = next(r for r in list_reasons(result) if (r.node_id, r.layer) == (4, 1))
    assert (reason.refusal, reason.share, reason.distance) == (Reason.OUTSIDE_TOLERANCE, 0, None)


def test_abstaining_layer_pays_nobody_and_the_others_pay_as_before():
    result = score([hoster(1, wrong={1}), hoster(2)])
    assert result.verdicts[1] is Verdict.ABSTAIN
    assert set(result.scores.values()) == {3 * (POOL // 2 // 2)}
    assert {r.refusal for r in list_reasons(result) if r.layer == 1} == {Reason.NO_MAJORITY}


@pytest.mark.parametrize(
    "refusal", [Reason.NOT_REVEALED, Reason.LATE, Reason.COMMITMENT_MISMATCH, Reason.WRONG_SEED]
)
def test_commit_without_a_counting_reveal_scores_zero_with_its_reason(refusal):
    result = score([hoster(1), hoster(2), hoster(3), silent(4, refusal)])
    assert result.scores[4] == 0
    reasons = [r for r in list_reasons(result) if r.node_id == 4]
    assert [r.layer for r in reasons] == [0, 1, 2, 3]
    assert {r.refusal for r in reasons} == {refusal}
    assert result.scores[1] == 4 * (POOL // 3)


def test_invalid_vector_costs_its_layer_and_stops_nobody():
    nan = np.full(8, np.nan, np.float32)
    vectors = (encode_vector(nan), *(encode_vector(TRUTH[layer]) for layer in (1, 2)), b"short")
    result = score([hoster(1), hoster(2), hoster(3), hoster(4, vectors=vectors)])
    refusals = {r.layer: r.refusal for r in list_reasons(result) if r.node_id == 4}
    assert refusals == {0: Reason.INVALID_VECTOR, 1: None, 2: None, 3: Reason.INVALID_VECTOR}
    assert result.verdicts[0] is Verdict.OK


def test_commit_past_the_model_scores_zero_and_stops_nobody():
    beyond = silent(4, Reason.WRONG_RANGE, 2, 9)
    result = score([hoster(1), hoster(2), hoster(3), beyond])
    assert result.scores[4] == 0
    assert result.scores[1] == 4 * (POOL // 3)


def test_reasons_say_when_why_and_how_much():
    result = score([hoster(1), hoster(2), hoster(3)])
    assert [(r.node_id, r.layer) for r in list_reasons(result)] == [
        (node, layer) for node in (1, 2, 3) for layer in range(4)
    ]
    reason = list_reasons(result)[0]
    report = result.reports[0]
    assert (report.committed_at, report.revealed_at) == (40, 55)
    assert (reason.verdict, reason.refusal) == (Verdict.OK, None)
    assert (reason.distance, reason.score, reason.share) == (0, SCORE_ONE, POOL // 3)
    for node, total in result.scores.items():
        assert total == sum(r.share for r in list_reasons(result) if r.node_id == node)


@pytest.mark.parametrize("vectors", [(), (b"",) * 3, (b"",) * 5])
def test_another_number_of_vectors_is_our_own_mistake(vectors):
    with pytest.raises(ValueError):
        score([hoster(1, vectors=vectors)])


def test_one_hoster_twice_is_our_own_mistake():
    with pytest.raises(ValueError):
        score([hoster(1), hoster(1)])


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_pool_is_never_exceeded_and_order_means_nothing(seed):
    rng = random.Random(seed)
    evidence = []
    for node in range(rng.randrange(1, 9)):
        start = rng.randrange(3)
        end = rng.randrange(start + 1, 4)
        wrong = {layer for layer in range(4) if rng.random() < 0.2}
        one = hoster(node, start, end, wrong=wrong, coldkey=bytes([rng.randrange(5)]))
        evidence.append(one if rng.random() < 0.9 else silent(node, Reason.LATE, start, end))
    result = score(evidence)
    assert sum(result.scores.values()) <= MAINNET.hoster_pool
    for layer in range(4):
        assert sum(r.share for r in list_reasons(result) if r.layer == layer) <= POOL
    rng.shuffle(evidence)
    assert score(evidence) == result


# Validators

TRUE_SCORES = {1: 10**17, 2: 10**17, 3: 5 * 10**16}


def test_equal_validators_share_the_pool():
    result = score_validators([validator(node, TRUE_SCORES) for node in (5, 6, 7)])
    assert result.scores == dict.fromkeys((5, 6, 7), MAINNET.validator_pool // 3)
    assert {reason.distance for reason in result.reports} == {0}


def test_tiny_differences_cost_tiny_amounts():
    # Normalised by the largest error, one unit of noise would cost a validator everything.
    noisy = TRUE_SCORES | {1: 10**17 + 100}
    result = score_validators(
        [validator(5, TRUE_SCORES), validator(6, TRUE_SCORES), validator(7, noisy)]
    )
    assert min(result.scores.values()) > MAINNET.validator_pool // 3 - 10**5


def test_score_falls_linearly_with_the_distance_to_the_mean():
    off = TRUE_SCORES | {1: 10**17 + GATE // 2}
    result = score_validators(
        [validator(5, TRUE_SCORES), validator(6, TRUE_SCORES), validator(7, off)]
    )
    third = Fraction(MAINNET.validator_pool, 3)
    assert result.scores[5] == pytest.approx(float(third * (1 - Fraction(1, 6))), rel=1e-12)
    assert result.scores[7] == pytest.approx(float(third * (1 - Fraction(1, 3))), rel=1e-12)


def test_empty_list_scores_zero():
    evidence = [validator(node, TRUE_SCORES) for node in (5, 6, 7)] + [validator(8, {})]
    result = score_validators(evidence)
    assert result.scores[8] == 0
    assert result.reports[-1].refusal is Reason.OUTSIDE_TOLERANCE
    assert result.scores[5] == MAINNET.validator_pool // 3


def test_invented_peers_score_zero():
    evidence = [validator(node, TRUE_SCORES) for node in (5, 6, 7)]
    evidence.append(validator(8, TRUE_SCORES | {77: 0}))
    result = score_validators(evidence)
    assert result.scores[8] == 0
    assert result.reports[-1].refusal is Reason.INVALID_SCORES


def test_sum_above_the_pool_is_invalid():
    full = {1: MAINNET.hoster_pool}
    assert score_validators([validator(5, full)], attested=full).scores[5] > 0
    result = score_validators([validator(5, full | {2: 1})], attested=full)
    assert result.reports[0].refusal is Reason.INVALID_SCORES


@pytest.mark.parametrize("rows", [((1, 5), (1, 6)), ((1, -5),)])
def test_repeated_ids_and_negative_scores_are_invalid(rows):
    result = score_validators([validator(5, rows)], attested={})
    assert result.reports[0].refusal is Reason.INVALID_SCORES


def test_missing_ids_count_as_zero():
    explicit = TRUE_SCORES | {9: 0}
    result = score_validators(
        [validator(5, TRUE_SCORES), validator(6, explicit)], attested=explicit
    )
    assert result.scores[5] == result.scores[6] == MAINNET.validator_pool // 2


def test_huge_liar_hurts_only_itself():
    liar = validator(9, {4: 2**128 - 1})
    modest_liar = validator(8, {4: MAINNET.hoster_pool})
    honest = [validator(node, TRUE_SCORES) for node in (5, 6, 7)]
    result = score_validators([*honest, liar, modest_liar])
    assert result.scores == {**dict.fromkeys((5, 6, 7), MAINNET.validator_pool // 3), 8: 0, 9: 0}


def test_liars_of_one_coldkey_have_one_vote():
    liars = [validator(node, {4: 10**17}, coldkey=b"evil") for node in (1, 2, 3, 4)]
    honest = [validator(node, TRUE_SCORES) for node in (5, 6)]
    result = score_validators([*liars, *honest])
    assert [result.scores[node] for node in (1, 2, 3, 4)] == [0] * 4
    assert result.scores[5] == result.scores[6] == MAINNET.validator_pool // 2


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_votes_are_measured_by_the_attested_proposal(count):
    liars = [validator(node, {4: 10**17}) for node in range(5, 5 + count)]
    assert set(score_validators(liars, attested=TRUE_SCORES).scores.values()) == {0}
    honest = [validator(node, TRUE_SCORES) for node in range(5, 5 + count)]
    result = score_validators(honest, attested=TRUE_SCORES)
    assert set(result.scores.values()) == {MAINNET.validator_pool // count}


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_votes_without_an_attested_proposal_are_not_paid(count):
    result = score_validators([validator(node, TRUE_SCORES) for node in range(5, 5 + count)])
    assert set(result.scores.values()) == {0}
    assert {reason.refusal for reason in result.reports} == {Reason.NO_CENTRE}


def test_three_validators_far_from_each_other_leave_nobody_paid():
    far = [validator(node, {node: MAINNET.hoster_pool}) for node in (5, 6, 7)]
    result = score_validators(far)
    assert set(result.scores.values()) == {0}


def test_second_node_near_a_median_that_no_vote_is_near():
    far = [validator(node, {node: MAINNET.hoster_pool}) for node in (5, 6, 7)]
    near = validator(8, {}, coldkey=bytes([7]) * 20)
    result = score_validators([*far, near])
    assert result.reports[-1].refusal is Reason.NO_CENTRE
    assert set(result.scores.values()) == {0}


@pytest.mark.parametrize("refusal", [Reason.NOT_REVEALED, Reason.LATE, Reason.COMMITMENT_MISMATCH])
def test_score_commit_without_a_counting_reveal_scores_zero_with_its_reason(refusal):
    evidence = [validator(node, TRUE_SCORES) for node in (5, 6, 7)]
    evidence.append(ValidatorEvidence(8, b"x", committed_at=90, refusal=refusal))
    reason = score_validators(evidence).reports[-1]
    assert (reason.refusal, reason.score, reason.distance) == (refusal, 0, None)
    assert reason.committed_at == 90


def test_nobody_reveals_and_the_pool_is_not_assigned():
    assert score_validators([]).scores == {}


def test_one_validator_twice_is_our_own_mistake():
    with pytest.raises(ValueError):
        score_validators([validator(5, {}), validator(5, {})])


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_plain_implementation_gives_the_same_validator_scores(seed):
    rng = random.Random(seed)
    ids = list(range(1, 6))
    base = {node: rng.randrange(MAINNET.hoster_pool // 5) for node in ids}
    ballots = []
    for node in rng.sample(range(1, 10), rng.randrange(0, 7)):
        spread = rng.choice([1, 10**6, GATE // 4, GATE, 2 * GATE])
        scores = {n: max(0, value + rng.randrange(-spread, spread)) for n, value in base.items()}
        for missing in rng.sample(ids, rng.choice([0, 0, 1])):
            del scores[missing]
        if rng.random() < 0.05:
            scores[77] = 1
        ballots.append((node, bytes([rng.randrange(5)]), sorted(scores.items())))
    attested = rng.choice([None, base])
    evidence = [validator(node, rows, coldkey=key) for node, key, rows in ballots]
    result = score_validators(evidence, ids=ids, attested=attested)
    assert dict(result.scores) == reference.score_validators(ballots, ids, attested)
    assert sum(result.scores.values()) <= MAINNET.validator_pool
    rng.shuffle(evidence)
    assert score_validators(evidence, ids=ids, attested=attested) == result


# Proposal rows


def roster_of(*classes):
    nodes = tuple(
        RosterNode(node_id, None, b"c", b"h", node_class, 0)
        for node_id, node_class in enumerate(classes, start=1)
    )
    return Roster(7, 140, bytes(32), 0, nodes)


ROSTER = roster_of(NodeClass.VALIDATOR, NodeClass.INCLUDED, NodeClass.IDLE, NodeClass.VALIDATOR)


def rows_of(**changes):
    fields = {
        "present": {1, 2, 3, 4},
        "hosters": {1, 2},
        "hoster_scores": {1: 11, 2: 12, 3: 13, 4: 14},
        "validator_scores": {1: 21, 2: 22, 3: 23, 4: 24},
    }
    return compute_proposal_rows(ROSTER, **(fields | changes))


def test_node_is_paid_in_one_role():
    assert rows_of() == ((1, 11), (2, 12), (4, 24))


def test_idle_nodes_are_not_listed():
    assert 3 not in dict(rows_of())


def test_silent_nodes_are_left_out():
    assert rows_of(present={2}) == ((2, 12),)


def test_present_node_without_a_score_is_listed_with_zero():
    assert rows_of(hoster_scores={}, validator_scores={}) == ((1, 0), (2, 0), (4, 0))


def test_everybody_is_proposed_with_zero_in_the_first_elected_epoch():
    assert compute_first_rows(ROSTER) == ((1, 0), (2, 0), (4, 0))


def test_a_full_epoch_never_exceeds_one():
    hosters = score([hoster(node) for node in (1, 2, 3)]).scores
    validators = score_validators([validator(node, hosters) for node in (4, 5, 6)]).scores
    roster = roster_of(*[NodeClass.VALIDATOR] * 6)
    rows = compute_proposal_rows(
        roster,
        present=range(1, 7),
        hosters={1, 2, 3},
        hoster_scores=hosters,
        validator_scores=validators,
    )
    assert 0.99 * SCORE_ONE < sum(value for _, value in rows) <= SCORE_ONE
