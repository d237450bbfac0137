"""Audits: what validators compute themselves refutes only what the hosters' votes refute too."""

import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.agreement import Verdict
from consensus.audit import collect_references, draw_layers
from consensus.challenge import ModelShape
from consensus.errors import Reason
from consensus.protocol_params import MAINNET, ConsensusParams
from consensus.records import RecordKind
from consensus.scoring import compute_layer_pool
from consensus.types import SCORE_ONE, LayerRange, NodeClass
from tests.support.epoch_records import (
    EPOCH,
    OTHER_WRONG,
    SHAPE,
    TRUTH,
    WRONG,
    World,
    find_draw,
    floats,
    make_roster,
)

DRAW = find_draw(1)
POOL = compute_layer_pool(SHAPE, MAINNET)
HALF_WRONG = (TRUTH[0], WRONG[1], TRUTH[2])
"""A liar of layer 1 alone."""
NEARBY = tuple(
    floats(
        *(
            (1 + 1.5 * 2.0**-MAINNET.tolerance_bits) * x
            for x in struct.unpack(f"<{len(row) // 4}f", row)
        )
    )
    for row in TRUTH
)
"""Lies that no row within tau of the truth agrees with, as near to it as can be."""


def make_world(num_nodes=9, **changes):
    return World(make_roster(range(1, num_nodes + 1)), draw=DRAW, **changes)


def refusals(report):
    return {
        (reason.node_id, reason.layer): reason.refusal
        for hoster in report.hosters
        for reason in hoster.reasons
    }


def penalties(report):
    return {hoster.node_id: hoster.penalty for hoster in report.hosters}


def scores(report):
    return {hoster.node_id: hoster.score for hoster in report.hosters}


def audits(report):
    return {
        validator.node_id: (validator.audit_refusal, validator.audit_share)
        for validator in report.validators
    }


# The draw


def test_all_layers_and_the_head_are_drawn_alike():
    shape = ModelShape(num_layers=22, hidden_size=8, vocab_size=8)
    drawn = [draw_layers(bytes([n, m]) * 16, shape, MAINNET) for n in range(64) for m in range(64)]
    counts = [drawn.count((layer,)) for layer in range(23)]
    assert sum(counts) == 4096
    assert min(counts) > 120 and max(counts) < 240


def test_several_layers_are_drawn_once_each_in_ascending_order():
    params = ConsensusParams(audit_layers=3)
    shape = ModelShape(num_layers=5, hidden_size=8, vocab_size=8)
    for number in range(64):
        drawn = draw_layers(bytes([number]) * 32, shape, params)
        assert len(set(drawn)) == 3 and list(drawn) == sorted(drawn)


def test_a_model_with_fewer_layers_than_are_audited_is_audited_whole():
    assert draw_layers(DRAW, SHAPE, ConsensusParams(audit_layers=16)) == (0, 1, 2)


def test_a_draw_of_another_size_is_our_own_mistake():
    with pytest.raises(ValueError):
        draw_layers(b"short", SHAPE, MAINNET)


# What opens


def collect(world, **changes):
    facts = world.name()
    return collect_references(
        facts.records,
        world.roster,
        draw=world.draw,
        hosters=changes.get("hosters", frozenset()),
        shape=world.shape,
        params=world.params,
    )


def test_reference_rows_that_open_are_an_answer_to_each_drawn_layer():
    world = make_world()
    world.audit(7)
    (reference,) = collect(world)
    assert (reference.node_id, reference.refusal) == (7, None)
    assert reference.answers[1].vector.tobytes() == TRUTH[1] and len(reference.answers) == 1


def test_an_audit_of_another_draw_counts_for_nothing():
    world = make_world()
    world.audit(7, draw=find_draw(0))
    world.audit(8, draw=bytes(32))
    assert [reference.refusal for reference in collect(world)] == [Reason.WRONG_DRAW] * 2


def test_an_audit_of_the_same_layer_drawn_by_another_block_counts_for_nothing():
    world = make_world()
    others = (bytes([number]) * 32 for number in itertools.count())
    other = next(draw for draw in others if draw_layers(draw, SHAPE, MAINNET) == (1,))
    assert other != DRAW
    world.audit(7, draw=other)
    assert collect(world)[0].refusal is Reason.WRONG_DRAW


def test_reference_rows_that_were_not_revealed_count_for_nothing():
    world = make_world()
    world.audit(7, is_revealed=False)
    assert collect(world)[0].refusal is Reason.NOT_REVEALED


def test_other_reference_rows_than_committed_to_open_nothing():
    world = make_world()
    world.audit(7)
    commit = world.records[RecordKind.AUDIT_COMMIT, EPOCH, 7]
    world.audit(7, vectors=WRONG)
    world.records[RecordKind.AUDIT_COMMIT, EPOCH, 7] = commit
    assert collect(world)[0].refusal is Reason.COMMITMENT_MISMATCH


def test_a_copied_audit_commitment_opens_for_its_author_alone():
    world = make_world()
    world.audit(7)
    for kind in (RecordKind.AUDIT_COMMIT, RecordKind.AUDIT_REVEAL):
        world.put(kind, 8, world.records[kind, EPOCH, 7].body)
    assert [reference.refusal for reference in collect(world)] == [
        None,
        Reason.COMMITMENT_MISMATCH,
    ]


@pytest.mark.parametrize("vector", [TRUTH[1][:-4], floats(float("nan"), 0, 0, 0)])
def test_an_invalid_reference_vector_counts_for_nothing(vector):
    world = make_world()
    world.audit(7, vectors=(TRUTH[0], vector, TRUTH[2]))
    assert collect(world)[0].refusal is Reason.INVALID_VECTOR


def test_a_reveal_of_a_layer_too_many_opens_nothing():
    world = make_world()
    world.audit(7)
    three = World(world.roster, draw=find_draw(0, 1, params=ConsensusParams(audit_layers=2)))
    three.params = ConsensusParams(audit_layers=2)
    three.audit(7)
    slot = (RecordKind.AUDIT_REVEAL, EPOCH, 7)
    world.records[slot] = three.records[slot]
    assert collect(world)[0].refusal is Reason.COMMITMENT_MISMATCH


def test_hosters_have_no_reference_rows():
    world = make_world()
    world.audit(7, 8)
    assert [reference.node_id for reference in collect(world, hosters=frozenset({7}))] == [8]


def test_nodes_below_included_have_no_reference_rows():
    world = make_world()
    world.audit(7, 8)
    world.roster = make_roster(range(1, 10), classes={7: NodeClass.IDLE})
    assert [reference.node_id for reference in collect(world)] == [8]


# Who is refuted


def test_a_liar_beside_honest_hosters_is_refuted():
    world = make_world()
    world.host(1, 2)
    world.host(3, vectors=HALF_WRONG)
    world.audit(7, 8)
    report = world.score()
    assert penalties(report) == {1: None, 2: None, 3: Reason.REFUTED}
    assert scores(report)[3] == 0
    assert report.probation == {3: MAINNET.probation_epochs}
    assert [node_id for node_id, _ in report.rows] == [1, 2, 4, 5, 6, 7, 8, 9]


def test_four_liars_of_seven_with_two_honest_references_are_refuted():
    world = make_world()
    world.host(1, 2, 3)
    world.host(4, 5, 6, 7, vectors=WRONG)
    world.audit(8, 9)
    report = world.score()
    assert set(report.probation) == {4, 5, 6, 7}
    # They lie on every layer, and have no vote on those that were not drawn either.
    assert set(scores(report).values()) == {0, 3 * (POOL // 3)}


def test_without_the_references_the_four_liars_take_everything():
    world = make_world()
    world.host(1, 2, 3)
    world.host(4, 5, 6, 7, vectors=WRONG)
    assert scores(world.score())[1] == 0


def test_liars_that_outvote_hosters_and_references_together_are_not_refuted_and_refute_nobody():
    world = make_world()
    world.host(1, 2)
    world.host(3, 4, 5, 6, 7, vectors=HALF_WRONG)
    world.audit(8, 9)
    report = world.score()
    # Five of nine votes, none of two references: the layer is theirs, and nobody is refuted.
    assert report.probation == {}
    assert scores(report)[1] == 2 * (POOL // 7)


def test_sybil_hosters_alone_refute_nobody():
    world = make_world(20)
    world.host(1)
    world.host(*range(2, 15), vectors=WRONG)
    world.audit(15, 16, 17)
    assert world.score().probation == {}
    world.audit(15, 16, 17, is_revealed=False)
    world.drop(RecordKind.AUDIT_REVEAL, 15, 16, 17)
    assert world.score().probation == {}


def test_sybil_validators_alone_refute_nobody():
    world = make_world(20)
    world.host(1, 2, 3, 4, 5)
    world.audit(6, 7)
    world.audit(8, 9, 10, vectors=WRONG)
    report = world.score()
    # Three of five references against seven of ten votes.
    assert report.probation == {}
    assert scores(report) == dict.fromkeys(range(1, 6), 3 * (POOL // 5))


def test_sybil_validators_that_lie_a_little_refute_nobody():
    world = make_world(20)
    world.host(1, 2, 3, 4, 5)
    world.audit(6, 7)
    world.audit(8, 9, 10, vectors=NEARBY)
    report = world.score()
    assert report.probation == {}
    assert scores(report) == dict.fromkeys(range(1, 6), 3 * (POOL // 5))


def test_sybil_validators_as_many_as_all_others_refute_nobody():
    world = make_world(20)
    world.host(1, 2, 3)
    world.audit(4, 5)
    world.audit(*range(6, 11), vectors=WRONG)
    report = world.score()
    # Five of ten votes are not more than half: the layer pays nothing.
    assert report.probation == {}
    assert refusals(report)[1, 1] is Reason.NO_MAJORITY


def test_auditors_that_outnumber_all_other_votes_on_a_layer_decide_it():
    # What docs/protocol.md says in section 11: two hosters of a layer cannot be told from two
    # liars if three coldkeys audit and say otherwise.
    world = make_world()
    world.host(1, 2)
    world.audit(7, 8, 9, vectors=WRONG)
    assert set(world.score().probation) == {1, 2}
    world.audit(3, 4)
    # With two honest auditors beside the two hosters the liars are no majority of the votes.
    assert world.score().probation == {}


def test_one_reference_refutes_nobody():
    world = make_world()
    world.host(1, 2)
    world.host(3, vectors=WRONG)
    world.audit(7)
    report = world.score()
    assert report.probation == {}
    assert refusals(report)[3, 1] is Reason.OUTSIDE_TOLERANCE


def test_references_of_one_coldkey_are_one():
    world = World(make_roster(range(1, 10), owners={7: 8}), draw=DRAW)
    world.host(1, 2)
    world.host(3, vectors=WRONG)
    world.audit(7, 8)
    assert world.score().probation == {}


def test_references_that_disagree_refute_nobody():
    world = make_world()
    world.host(1, 2)
    world.host(3, vectors=WRONG)
    world.audit(7)
    world.audit(8, vectors=WRONG)
    assert world.score().probation == {}


def test_a_lone_hoster_that_contradicts_the_references_is_refuted():
    world = make_world()
    world.host(1, vectors=WRONG)
    world.audit(7, 8)
    report = world.score()
    assert set(report.probation) == {1} and scores(report) == {1: 0}


def test_a_lone_honest_hoster_is_paid_beside_a_lying_reference():
    world = make_world()
    world.host(1)
    world.audit(7, 8)
    world.audit(9, vectors=WRONG)
    report = world.score()
    assert report.probation == {} and scores(report) == {1: 3 * POOL}


def test_a_layer_with_one_hoster_and_one_lying_auditor_pays_nothing_in_that_epoch():
    world = make_world()
    world.host(1)
    world.audit(9, vectors=WRONG)
    report = world.score()
    assert report.probation == {} and scores(report) == {1: 2 * POOL}
    assert refusals(report)[1, 1] is Reason.NO_MAJORITY


def test_a_vector_that_is_no_vector_is_refuted_on_a_drawn_layer_and_not_elsewhere():
    world = make_world()
    world.host(1, 2)
    world.host(3, vectors=(TRUTH[0], floats(float("inf"), 0, 0, 0), TRUTH[2]))
    world.host(4, vectors=(floats(float("inf"), 0, 0, 0), TRUTH[1], TRUTH[2]))
    world.audit(7, 8)
    report = world.score()
    assert set(report.probation) == {3}
    assert refusals(report)[4, 0] is Reason.INVALID_VECTOR


def test_refuted_nodes_have_no_vote_on_any_layer():
    world = make_world()
    # On layers 0 and 2 the three liars would outvote the two honest ones.
    world.host(1, 2)
    world.host(3, 4, 5, vectors=WRONG)
    world.audit(6, 7)
    report = world.score()
    assert set(report.probation) == {3, 4, 5}
    assert scores(report)[1] == 3 * (POOL // 2)
    assert all(refusals(report)[1, layer] is None for layer in range(3))


def test_nodes_on_probation_have_no_vote_and_no_pay():
    world = make_world(probation={3: 2, 4: 2, 5: 1})
    world.host(1, 2)
    world.host(3, 4, 5, vectors=WRONG)
    report = world.score()
    assert scores(report) == {1: 3 * (POOL // 2), 2: 3 * (POOL // 2), 3: 0, 4: 0, 5: 0}
    assert penalties(report)[3] is Reason.ON_PROBATION
    assert report.probation == {3: 1, 4: 1}
    assert [node_id for node_id, _ in report.rows] == [1, 2, 6, 7, 8, 9]


def test_a_layer_that_only_nodes_on_probation_serve_pays_nothing():
    world = make_world(probation={1: 3})
    world.host(1)
    report = world.score()
    (hoster,) = report.hosters
    assert {reason.verdict for reason in hoster.reasons} == {Verdict.ABSTAIN}
    assert {reason.refusal for reason in hoster.reasons} == {Reason.NO_MAJORITY}


def test_a_node_on_probation_that_lies_again_begins_it_again():
    world = make_world(probation={3: 2})
    world.host(1, 2)
    world.host(3, vectors=WRONG)
    world.audit(7, 8)
    assert world.score().probation == {3: 8}


def test_a_validator_on_probation_has_no_reference_rows_and_no_pay():
    world = make_world(probation={8: 2})
    world.host(1, 2)
    world.host(3, vectors=WRONG)
    world.audit(7, 8)
    report = world.score()
    assert 3 not in report.probation
    assert 8 not in audits(report)


def test_penalised_hosters_do_not_dilute_layers():
    world = make_world(probation={4: 3})
    world.host(1, 2, 4)
    world.host(3, vectors=HALF_WRONG)
    world.audit(7, 8)
    # Nodes 3 and 4 are right about layers 0 and 2, which two others share.
    assert scores(world.score())[1] == 3 * (POOL // 2)


# Withheld reveals


def test_a_withheld_reveal_of_a_drawn_layer_costs_the_epoch_and_two_more():
    world = make_world()
    world.host(1, 2)
    world.host(3, is_revealed=False)
    world.audit(7, 8)
    report = world.score()
    assert penalties(report)[3] is Reason.WITHHELD
    assert report.probation == {3: MAINNET.withheld_epochs} == {3: 2}
    # In the epoch itself it has a row, with 0; in the next two it is left out.
    assert dict(report.rows)[3] == 0
    world.probation = report.probation
    assert 3 not in dict(world.score().rows)


def test_a_withheld_reveal_of_layers_that_were_not_drawn_costs_the_epoch_alone():
    world = make_world()
    world.host(1, 2)
    world.host(3, layers=LayerRange(0, 1), vectors=TRUTH[:1], is_revealed=False)
    world.audit(7, 8)
    report = world.score()
    assert report.probation == {} and dict(report.rows)[3] == 0


def test_a_reveal_that_opens_nothing_is_withheld():
    world = make_world()
    world.host(1, 2, 3)
    world.reveal(3, salt=bytes(32))
    world.audit(7, 8)
    report = world.score()
    assert penalties(report)[3] is Reason.WITHHELD and report.probation == {3: 2}


def test_a_reveal_is_withheld_also_where_no_validator_answers_the_drawn_layer():
    world = make_world()
    world.host(1, 2)
    world.host(3, is_revealed=False)
    assert world.score().probation == {3: 2}


def test_nothing_is_withheld_where_no_draw_is_known():
    world = make_world()
    world.draw = None
    world.host(1, 2)
    world.host(3, is_revealed=False)
    assert world.score().probation == {}


# The coldkey's vote


def test_a_reference_row_replaces_its_coldkeys_vote_as_a_hoster():
    # Nodes 1 and 7 are one owner's: 1 lies and 7 audits honestly. Two votes of three are right.
    world = World(make_roster(range(1, 10), owners={1: 7}), draw=DRAW)
    world.host(1, vectors=WRONG)
    world.host(2)
    world.audit(7, 8)
    report = world.score()
    assert set(report.probation) == {1}
    lying = World(make_roster(range(1, 10), owners={1: 7}), draw=DRAW)
    lying.host(1, 2)
    lying.audit(7, vectors=WRONG)
    lying.audit(8, vectors=OTHER_WRONG)
    # Its own lie as a validator outvotes what it did as a hoster: one of three votes is right.
    assert refusals(lying.score())[1, 1] is Reason.NO_MAJORITY


# What validators are paid for audits


def pay(world):
    return {node_id: share for node_id, (_, share) in audits(world.score()).items()}


def test_an_eighth_of_what_hosters_are_paid_is_divided_among_the_coldkeys_that_audited():
    world = World(make_roster(range(1, 10), owners={8: 7}), draw=DRAW)
    world.host(1, 2)
    world.audit(7, 8, 9)
    paid = sum(scores(world.score()).values())
    assert pay(world) == {7: paid // 4 // 2 // 2, 8: 0, 9: paid // 4 // 2 // 2}


def test_a_second_node_of_a_coldkey_that_agrees_is_not_blamed():
    world = World(make_roster(range(1, 10), owners={8: 7}), draw=DRAW)
    world.host(1, 2)
    world.audit(7, 8, 9)
    assert {refusal for refusal, _ in audits(world.score()).values()} == {None}


def test_reference_rows_outside_the_majority_of_reference_rows_are_not_paid():
    world = make_world()
    world.host(1, 2, 3, 4)
    world.audit(7, 8)
    world.audit(9, vectors=WRONG)
    report = world.score()
    paid = sum(scores(report).values())
    assert audits(report) == {
        7: (None, paid // 4 // 2 // 2),
        8: (None, paid // 4 // 2 // 2),
        9: (Reason.OUTSIDE_TOLERANCE, 0),
    }


@pytest.mark.parametrize("owners", [{}, {8: 7}])
def test_the_half_for_audits_stands_only_where_two_coldkeys_opened_reference_rows(owners):
    world = World(make_roster(range(1, 10), owners=owners), draw=DRAW)
    world.host(1, 2)
    world.audit(7, 8)
    assert (sum(pay(world).values()) > 0) is (not owners)


def test_reference_rows_of_a_block_that_was_reorganised_away_are_not_paid():
    world = make_world()
    world.host(1, 2)
    world.audit(7, 8, draw=find_draw(0))
    world.audit(9)
    report = world.score()
    assert audits(report) == {7: (Reason.WRONG_DRAW, 0), 8: (Reason.WRONG_DRAW, 0), 9: (None, 0)}


# Any mixture


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_minority_of_either_kind_refutes_an_honest_hoster(seed):
    rng = random.Random(seed)
    world = World(make_roster(range(1, 31)), draw=DRAW)
    honest_hosters = range(1, 1 + rng.randrange(1, 6))
    lying_hosters = range(6, 6 + rng.randrange(0, 10))
    world.host(*honest_hosters)
    world.host(*lying_hosters, vectors=rng.choice([WRONG, HALF_WRONG]))
    honest_references = range(16, 16 + rng.randrange(0, 6))
    most = len(honest_references) + len(honest_hosters)
    # Liars of both kinds may not be the majority of both kinds; here they are in one.
    if rng.random() < 0.5:
        lying_references = range(22, 22 + rng.randrange(0, len(honest_references) + 1))
    else:
        lying_references = range(22, 22 + rng.randrange(0, max(1, most - len(lying_hosters))))
    world.audit(*honest_references)
    world.audit(*lying_references, vectors=WRONG)
    report = world.score()
    assert not set(report.probation) & set(honest_hosters)
    assert sum(scores(report).values()) <= MAINNET.hoster_pool
    world.records = dict(rng.sample(list(world.records.items()), len(world.records)))
    assert world.score() == report


def test_an_honest_score_is_whole_beside_refuted_liars():
    world = make_world()
    world.host(1, 2, 3)
    world.host(4, vectors=WRONG)
    world.audit(7, 8)
    hoster = world.score().hosters[0]
    assert {reason.score for reason in hoster.reasons} == {SCORE_ONE}
    assert hoster.total == 3 * SCORE_ONE
