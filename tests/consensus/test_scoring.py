"""From judged layers to paid nodes: hosters' shares, validators' accuracies and pay."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.agreement import Answer, Verdict
from consensus.challenge import ModelShape, encode_vector
from consensus.commitment import compute_tag
from consensus.errors import Reason
from consensus.protocol_params import MAINNET
from consensus.records import ScoreRow
from consensus.scoring import (
    HosterEvidence,
    ValidatorEvidence,
    compute_accuracies,
    compute_hoster_scores,
    compute_layer_pool,
    pay_validators,
)
from consensus.types import SCORE_ONE, LayerRange

SHAPE = ModelShape(num_layers=3, hidden_size=8, vocab_size=8)
POOL = compute_layer_pool(SHAPE, MAINNET)
TRUTH = {
    layer: np.random.default_rng(layer).normal(size=8).astype(np.float32) for layer in range(4)
}
WRONG = np.full(8, 3.0, np.float32)


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


def score(evidence, **changes):
    return compute_hoster_scores(evidence, shape=SHAPE, params=MAINNET, **changes)


def list_reasons(result):
    return [reason for report in result.reports for reason in report.reasons]


def list_verdicts(result):
    return {reason.layer: reason.verdict for reason in list_reasons(result)}


# Hosters


def test_identical_hosters_of_everything_share_the_pool():
    result = score([hoster(node) for node in (1, 2, 3, 4)])
    assert set(result.scores.values()) == {4 * (POOL // 4)}
    assert sum(result.scores.values()) <= MAINNET.hoster_pool
    assert set(list_verdicts(result).values()) == {Verdict.OK}


def test_the_head_counts_as_a_layer():
    assert len(SHAPE.challenged_layers) == 4
    assert compute_layer_pool(SHAPE, MAINNET) == MAINNET.hoster_pool // 4
    assert sorted(list_verdicts(score([hoster(1)]))) == [0, 1, 2, 3]


def test_no_hoster_means_empty_layers_and_nobody_paid():
    result = score([])
    assert result.scores == {} and result.reports == ()


def test_under_served_layer_pays_more_per_hoster():
    result = score(
        [hoster(node, 0, 1) for node in (1, 2, 3, 4, 5, 6)]
        + [hoster(node, 1, 2) for node in (7, 8, 9)]
    )
    assert result.scores[1] == POOL // 6
    assert result.scores[7] == POOL // 3
    assert 2 not in list_verdicts(result)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_hosters_share_a_layer_whole(count):
    result = score([hoster(node, 0, 1) for node in range(count)])
    assert list_verdicts(result)[0] is Verdict.OK
    assert set(result.scores.values()) == {POOL // count}


def test_wrong_layer_costs_that_layer_alone():
    result = score([hoster(1), hoster(2), hoster(3), hoster(4, wrong={1})])
    share = POOL // 4
    assert result.scores[4] == 3 * share
    assert result.scores[1] == 3 * share + POOL // 3
    reason = next(r for r in list_reasons(result) if (r.node_id, r.layer) == (4, 1))
    assert (reason.refusal, reason.share, reason.distance) == (Reason.OUTSIDE_TOLERANCE, 0, None)


def test_abstaining_layer_pays_nobody_and_the_others_pay_as_before():
    result = score([hoster(1, wrong={1}), hoster(2)])
    assert list_verdicts(result)[1] is Verdict.ABSTAIN
    assert set(result.scores.values()) == {3 * (POOL // 2)}
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
    assert list_verdicts(result)[0] is Verdict.OK


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
    for report in result.reports:
        assert report.score == sum(reason.share for reason in report.reasons)
        assert report.total == sum(reason.score for reason in report.reasons) == 4 * SCORE_ONE


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


# Penalties


def test_an_unpaid_hoster_keeps_its_vote_and_its_total_and_dilutes_no_layer():
    result = score([hoster(1), hoster(2), hoster(3, wrong={1})], unpaid={2})
    assert result.scores[2] == 0
    assert result.scores[1] == 3 * (POOL // 2) + POOL
    assert (result.reports[1].penalty, result.reports[1].total) == (
        Reason.NOT_SERVING,
        4 * SCORE_ONE,
    )


def test_penalised_hosters_do_not_dilute_layers():
    alone = score([hoster(1)]).scores[1]
    assert score([hoster(1), hoster(2)], unpaid={2}).scores[1] == alone
    assert score([hoster(1), hoster(2)], probation={2}).scores[1] == alone


def test_the_gravest_penalty_is_named():
    references = {1: [reference(node) for node in (7, 8)]}
    evidence = [hoster(1), hoster(2), hoster(3, wrong={1}), hoster(4, wrong={1})]
    result = score(evidence, references=references, unpaid={3, 4}, probation={4})
    assert [report.penalty for report in result.reports] == [
        None,
        None,
        Reason.REFUTED,
        Reason.ON_PROBATION,
    ]
    assert result.refuted == {3, 4}


def test_an_unpaid_hoster_that_nobody_knows_changes_nothing():
    assert score([hoster(1)], unpaid={77}) == score([hoster(1)])


def reference(node_id, layer=1, *, wrong=False):
    return Answer(node_id, bytes([node_id]) * 20, WRONG if wrong else TRUTH[layer])


def test_several_drawn_layers_are_judged_first_and_together():
    references = {layer: [reference(node, layer) for node in (7, 8)] for layer in (1, 3)}
    evidence = [hoster(1), hoster(2), hoster(3, wrong={1}), hoster(4, wrong={3})]
    result = score(evidence, references=references)
    assert result.refuted == {3, 4} and result.backed == {7, 8}


def test_a_reference_row_wrong_on_one_of_two_drawn_layers_is_not_backed():
    references = {layer: [reference(node, layer) for node in (7, 8)] for layer in (1, 3)}
    references[3].append(reference(9, 3, wrong=True))
    references[1].append(reference(9, 1))
    assert score([hoster(1)], references=references).backed == {7, 8}


# Validators' scores of hosters

HASHES = {node: bytes([node]) * 32 for node in (1, 2, 3)}
TOTALS = {1: 4 * SCORE_ONE, 2: 39 * SCORE_ONE // 10, 3: SCORE_ONE}


def row(author, hoster_id, total, *, tag=None):
    tag = tag or compute_tag(author, HASHES.get(hoster_id, bytes(32)))
    return ScoreRow(hoster_id, total, tag)


def validator(node_id, totals=TOTALS, *, coldkey=None, rows=None, **changes):
    if rows is None:
        rows = tuple(row(node_id, hoster_id, total) for hoster_id, total in totals.items())
    return ValidatorEvidence(node_id, coldkey or bytes([node_id]) * 20, rows=rows, **changes)


def judge(*evidence, hashes=HASHES):
    return compute_accuracies(evidence, reveal_hashes=hashes, params=MAINNET)


def accuracies(*evidence, hashes=HASHES):
    return {report.node_id: report.accuracy for report in judge(*evidence, hashes=hashes)}


def refusals_of(report):
    return {reason.hoster: reason.refusal for reason in report.rows}


HONEST = tuple(validator(node) for node in (5, 6, 7))
THIRD = SCORE_ONE // 3


def test_equal_rows_are_right():
    assert accuracies(*HONEST) == dict.fromkeys((5, 6, 7), SCORE_ONE)
    report = judge(*HONEST)[0]
    assert [(r.total, r.expected, r.refusal) for r in report.rows] == [
        (total, total, None) for total in TOTALS.values()
    ]


def test_the_tag_is_its_authors_own():
    copied = validator(8, rows=HONEST[0].rows)
    assert accuracies(*HONEST, copied)[8] == 0


def test_one_missed_record_costs_one_row():
    missed = validator(8, {1: TOTALS[1], 2: TOTALS[2]})
    report = judge(*HONEST, missed)[-1]
    assert report.accuracy == 2 * SCORE_ONE // 3
    assert refusals_of(report) == {1: None, 2: None, 3: Reason.NOT_REVEALED}


def test_a_wrong_tag_costs_its_row():
    rows = (row(8, 1, TOTALS[1]), row(8, 2, TOTALS[2], tag=b"8 bytes."), row(8, 3, TOTALS[3]))
    report = judge(*HONEST, validator(8, rows=rows))[-1]
    assert refusals_of(report) == {1: None, 2: Reason.WRONG_TAG, 3: None}


@pytest.mark.parametrize(
    ("total", "is_right"),
    [
        (4 * SCORE_ONE + 4 * SCORE_ONE // 256, True),
        (4 * SCORE_ONE + 4 * SCORE_ONE // 256 + 1, False),
        (4 * SCORE_ONE - 4 * SCORE_ONE // 256, True),
        (4 * SCORE_ONE - 4 * SCORE_ONE // 256 - 1, False),
        (0, False),
        (2**80, False),
    ],
)
def test_a_sum_is_right_within_a_256th_of_the_median(total, is_right):
    report = judge(*HONEST, validator(8, TOTALS | {1: total}))[-1]
    assert refusals_of(report)[1] is (None if is_right else Reason.OUTSIDE_TOLERANCE)


def test_a_row_nobody_expects_is_an_error():
    # Everybody else says that the revealed outputs of node 3 are worth nothing.
    votes = [validator(node, TOTALS | {3: 0}) for node in (5, 6, 7)]
    report = judge(*votes, validator(8))[-1]
    assert refusals_of(report) == {1: None, 2: None, 3: Reason.OUTSIDE_TOLERANCE}
    assert report.accuracy == 2 * SCORE_ONE // 3


def test_a_zero_row_that_nobody_expects_is_no_row():
    votes = [validator(node, TOTALS | {3: 0}) for node in (5, 6, 7)]
    assert set(accuracies(*votes).values()) == {SCORE_ONE}
    assert [len(report.rows) for report in judge(*votes)] == [2, 2, 2]


@pytest.mark.parametrize("num_votes", [1, 2, 4])
def test_rows_about_reveals_that_are_not_accepted_are_not_judged(num_votes):
    # The reveal of node 3 came at the edge: this validator saw it, most others did not.
    accepted = {1: HASHES[1], 2: HASHES[2]}
    few = {1: TOTALS[1], 2: TOTALS[2]}
    others = [validator(node, few) for node in (5, 6, 7)][: num_votes - 1]
    assert accuracies(*others, validator(8), hashes=accepted)[8] == SCORE_ONE


def test_a_reveal_that_most_validators_scored_and_sightings_do_not_list_costs_nobody_a_row():
    accepted = {1: HASHES[1], 2: HASHES[2]}
    assert set(accuracies(*HONEST, hashes=accepted).values()) == {SCORE_ONE}


def test_invented_hosters_gain_and_cost_nothing():
    invented = validator(8, TOTALS | dict.fromkeys(range(70, 80), SCORE_ONE))
    assert accuracies(*HONEST, invented)[8] == SCORE_ONE


def test_an_empty_list_has_accuracy_0():
    assert accuracies(*HONEST, validator(8, {}))[8] == 0


@pytest.mark.parametrize("num_honest", [1, 2, 3, 6])
def test_lazy_rows_have_accuracy_0(num_honest):
    honest = [validator(node) for node in range(10, 10 + num_honest)]
    perfect = dict.fromkeys(HASHES, 4 * SCORE_ONE)
    before = {node: bytes([node + 100]) * 32 for node in HASHES}
    seen = {node: record_hash[:16] + bytes(16) for node, record_hash in HASHES.items()}
    lazy = {
        "last epoch's rows": [(n, TOTALS[n], compute_tag(30, before[n])) for n in HASHES],
        "all perfect": [(n, perfect[n], bytes(8)) for n in HASHES],
        "the names in a copied sighting": [
            (n, TOTALS[n], compute_tag(30, seen[n])) for n in HASHES
        ],
        "another validator's rows": honest[0].rows,
    }
    for name, rows in lazy.items():
        copier = validator(30, rows=tuple(ScoreRow(*row) for row in rows))
        result = accuracies(*honest, copier)
        assert result[30] == 0, name
        # The lazy rows are one vote of the median, and take nothing from the others.
        assert num_honest == 1 or result[10] == SCORE_ONE, name


def test_liars_of_one_coldkey_have_one_vote():
    liars = [validator(node, dict.fromkeys(HASHES, 1), coldkey=b"evil") for node in range(1, 5)]
    result = accuracies(*liars, *HONEST)
    assert [result[node] for node in range(1, 8)] == [0] * 4 + [SCORE_ONE] * 3


def test_a_minority_of_liars_moves_no_median():
    liars = [validator(node, dict.fromkeys(HASHES, 2**80)) for node in (8, 9)]
    assert accuracies(*HONEST, *liars) == dict.fromkeys((5, 6, 7), SCORE_ONE) | {8: 0, 9: 0}


def test_rows_with_a_wrong_tag_have_no_vote():
    # As many sybils as honest validators: without the reveals they move no median.
    lazy = [
        validator(node, rows=tuple(ScoreRow(n, 0, bytes(8)) for n in HASHES)) for node in (8, 9, 10)
    ]
    assert [accuracies(*HONEST, *lazy)[node] for node in (5, 8)] == [SCORE_ONE, 0]


def test_an_even_number_of_votes_has_its_lower_median():
    votes = [validator(node, {1: total}) for node, total in ((5, 1000), (6, 1000), (7, 9), (8, 9))]
    assert {report.node_id for report in judge(*votes) if report.accuracy} == {7, 8}


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_votes_count_tags_only(count):
    far = [validator(node, dict.fromkeys(HASHES, node)) for node in (5, 6)][:count]
    assert set(accuracies(*far).values()) == {SCORE_ONE}
    assert {reason.expected for report in judge(*far) for reason in report.rows} == {None}


def test_with_fewer_than_three_votes_a_row_is_expected_for_each_accepted_reveal():
    # One validator alone may not say that the only hoster worth a row is the one it saw.
    assert accuracies(validator(5, {1: TOTALS[1]})) == {5: THIRD}
    assert accuracies(validator(5, {1: 0, 2: 0, 3: 0})) == {5: SCORE_ONE}


def test_three_nodes_of_one_coldkey_are_fewer_than_three_votes():
    votes = [validator(node, dict.fromkeys(HASHES, node), coldkey=b"same") for node in (5, 6, 7)]
    assert set(accuracies(*votes).values()) == {SCORE_ONE}


def test_where_no_reveal_is_accepted_nobody_is_right():
    assert set(accuracies(*HONEST, hashes={}).values()) == {0}


@pytest.mark.parametrize(
    "refusal", [Reason.NOT_REVEALED, Reason.NO_COMMIT, Reason.COMMITMENT_MISMATCH]
)
def test_scores_that_do_not_open_have_accuracy_0_and_no_vote(refusal):
    silent = ValidatorEvidence(8, b"x", committed_at=90, refusal=refusal)
    report = judge(*HONEST, silent)[-1]
    assert (report.accuracy, report.refusal, report.committed_at) == (0, refusal, 90)
    two = judge(*HONEST[:2], silent)
    assert {reason.expected for report in two for reason in report.rows} == {None}


def test_no_validators_have_no_accuracies():
    assert judge() == ()


def test_one_validator_twice_is_our_own_mistake():
    with pytest.raises(ValueError):
        judge(validator(5), validator(5))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_order_of_validators_changes_nothing(seed):
    rng = random.Random(seed)
    evidence = [
        validator(
            node,
            {n: total + rng.choice([0, 0, 1, SCORE_ONE]) for n, total in TOTALS.items()},
            coldkey=bytes([rng.randrange(4)]),
        )
        for node in range(rng.randrange(8))
    ]
    expected = judge(*evidence)
    rng.shuffle(evidence)
    assert judge(*evidence) == expected


# Validators' pay

PAID = 4 * 10**17
COLDKEYS = {node: bytes([node]) * 20 for node in range(1, 12)}


def pay(evidence, *, audits=(), paid=PAID, coldkeys=COLDKEYS, hashes=HASHES):
    reports = judge(*evidence, hashes=hashes)
    audits = dict(audits)
    return {
        report.node_id: (report.score_share, report.audit_share)
        for report in pay_validators(
            reports, coldkeys=coldkeys, audits=audits, paid_to_hosters=paid, params=MAINNET
        )
    }


def test_validators_pay_is_a_quarter_of_the_hosters():
    shares = pay(HONEST, audits=[(5, None), (6, None), (7, None)])
    assert shares == dict.fromkeys((5, 6, 7), (PAID // 4 // 2 // 3, PAID // 4 // 2 // 3))


def test_whatever_zeroes_hosters_does_not_pay_validators():
    shares = pay(HONEST, audits=[(5, None), (6, None)], paid=0)
    assert set(shares.values()) == {(0, 0)}


def test_all_of_it_is_for_scores_where_fewer_than_two_audits_opened():
    whole = (PAID // 4 // 3, 0)
    assert set(pay(HONEST).values()) == {whole}
    assert set(pay(HONEST, audits=[(5, None)]).values()) == {whole}
    late = [(5, None), (6, Reason.NOT_REVEALED), (7, Reason.WRONG_DRAW)]
    assert set(pay(HONEST, audits=late).values()) == {whole}


def test_audits_that_opened_and_disagree_leave_their_half_unpaid():
    audits = [(5, Reason.OUTSIDE_TOLERANCE), (6, Reason.OUTSIDE_TOLERANCE)]
    assert set(pay(HONEST, audits=audits).values()) == {(PAID // 4 // 2 // 3, 0)}


def test_pay_is_divided_by_coldkey_and_goes_to_its_first_node():
    coldkeys = COLDKEYS | {6: COLDKEYS[5]}
    evidence = [validator(node, coldkey=coldkeys[node]) for node in (5, 6, 7)]
    shares = pay(evidence, audits=[(6, None), (5, None), (7, None)], coldkeys=coldkeys)
    part = PAID // 4 // 2 // 2
    assert shares == {5: (part, part), 6: (0, 0), 7: (part, part)}


def test_a_coldkeys_part_goes_to_its_first_node_that_earned_it():
    coldkeys = COLDKEYS | {6: COLDKEYS[5]}
    evidence = [validator(5, {}, coldkey=coldkeys[5]), validator(6, coldkey=coldkeys[5]), HONEST[2]]
    assert pay(evidence, coldkeys=coldkeys)[6] == (PAID // 4 // 2, 0)


def test_pay_for_scores_falls_with_accuracy():
    missed = validator(8, {1: TOTALS[1], 2: TOTALS[2]})
    shares = pay([*HONEST, missed])
    assert shares[5] == (PAID // 4 // 4, 0)
    assert shares[8] == (PAID // 4 * (2 * SCORE_ONE // 3) // (4 * SCORE_ONE), 0)


def test_validators_without_accuracy_do_not_dilute_the_others():
    lazy = [validator(node, {}) for node in (8, 9, 10)]
    assert pay([*HONEST, *lazy])[5] == pay(HONEST)[5]


def test_a_validator_that_audits_and_commits_to_no_scores_is_paid_for_audits():
    shares = pay(HONEST, audits=[(5, None), (9, None)])
    assert shares[9] == (0, PAID // 4 // 2 // 2)
    assert shares[5] == (PAID // 4 // 2 // 3, PAID // 4 // 2 // 2)


def test_a_whole_epoch_pays_at_most_a_half():
    hosters = score([hoster(node) for node in (1, 2, 3)])
    paid = sum(hosters.scores.values())
    shares = pay(HONEST, audits=[(5, None), (6, None)], paid=paid)
    total = paid + sum(sum(parts) for parts in shares.values())
    assert 0.49 * SCORE_ONE < total <= SCORE_ONE // 2
