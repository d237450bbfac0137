"""A whole epoch, from what nodes published to the rows that the proposal of the next one lists."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.challenge import ModelShape
from consensus.commitment import compute_tag
from consensus.epoch import compute_score_rows, score_nothing
from consensus.errors import Reason
from consensus.naming import Naming, decode_args, encode_args
from consensus.protocol_params import MAINNET
from consensus.records import RecordKind
from consensus.scoring import compute_layer_pool
from consensus.types import SCORE_ONE, LayerRange, NodeClass
from tests.support.epoch_records import (
    EPOCH,
    TRUTH,
    WRONG,
    World,
    find_draw,
    floats,
    make_roster,
)

DRAW = find_draw(1)
SHAPE = ModelShape(num_layers=2, hidden_size=4, vocab_size=4)
POOL = compute_layer_pool(SHAPE, MAINNET)
HOSTERS, VALIDATORS = (1, 2, 3), (4, 5, 6)


def make_world(nodes=range(1, 8), **changes):
    """Two honest epochs: 1, 2, 3 host, 4, 5, 6 validate, and 7 is silent but for its sighting."""
    owners = changes.pop("owners", None)
    world = World(
        make_roster(nodes, owners=owners),
        previous=make_roster(nodes, epoch=EPOCH - 1, owners=owners),
        draw=DRAW,
        **changes,
    )
    world.host(*HOSTERS, age=1)
    world.host(*HOSTERS)
    world.audit(*VALIDATORS)
    world.score_before(*VALIDATORS)
    return world


def rows(report):
    return dict(report.rows)


def get_validator(report, node_id):
    return next(one for one in report.validators if one.node_id == node_id)


PART = 3 * (POOL // 3)
"""What each of the three hosters is paid."""
VALIDATORS_POOL = 3 * PART // 4


def divide(count):
    """What one of ``count`` validators is paid: a part of the half for scores and of the other."""
    audits = VALIDATORS_POOL // 2
    return (VALIDATORS_POOL - audits) // count + audits // count


AUDITOR = divide(3)


def test_an_honest_epoch_pays_hosters_and_a_quarter_of_it_to_validators():
    report = make_world().score()
    assert rows(report) == dict.fromkeys(HOSTERS, PART) | dict.fromkeys(VALIDATORS, AUDITOR) | {
        7: 0
    }
    assert sum(rows(report)[node] for node in VALIDATORS) == pytest.approx(3 * PART // 4, abs=10)
    assert report.probation == {} and report.unpaid == set()


def test_any_quorum_of_honest_sightings_gives_the_same_report():
    world = make_world()
    whole = world.score()
    for left_out in range(1, 7):
        named = [node for node in range(1, 8) if node not in (left_out, 7)]
        assert world.score(world.name(sighters=named)).hosters == whole.hosters
        assert world.score(world.name(sighters=named)).validators == whole.validators


def test_order_of_records_changes_nothing():
    world = make_world()
    world.host(3, vectors=WRONG)
    expected = world.score()
    for seed in range(5):
        rng = random.Random(seed)
        world.records = dict(rng.sample(list(world.records.items()), len(world.records)))
        facts = world.name()
        named = dict(rng.sample(list(facts.named.items()), len(facts.named)))
        kept = dict(rng.sample(list(facts.records.items()), len(facts.records)))
        assert world.score(replace(facts, named=named, records=kept)) == expected


def test_what_this_node_saw_itself_changes_reports_and_no_rows():
    world = make_world()
    facts = world.name()
    seen = replace(facts, seen_at=dict.fromkeys(facts.records, 190))
    assert world.score(seen).rows == world.score(facts).rows


# Naming


def test_a_record_that_fewer_than_half_saw_does_not_count():
    world = make_world()
    slot = (RecordKind.OUTPUT_REVEAL, EPOCH, 3)
    for num_blind, is_paid in ((3, True), (4, False)):
        named = {
            node: world.sight(node, hidden={slot} if node <= num_blind else ())
            for node in range(1, 8)
        }
        assert (rows(world.score(world.name(named)))[3] > 0) is is_paid


def test_a_third_of_lying_sighters_takes_nothing_from_honest_nodes():
    world = make_world()
    honest = world.score()
    everything = frozenset(world.records)
    named = {
        node: world.sight(node, hidden=everything if node <= 2 else ()) for node in range(1, 8)
    }
    assert world.score(world.name(named)) == replace(honest)


def test_an_author_of_two_versions_harms_itself_alone():
    world = make_world(range(1, 9))
    honest = world.score()
    first = world.sight(1)
    world.reveal(3, vectors=WRONG)
    second = world.sight(1)
    named = {node: first if node <= 4 else second for node in range(1, 9)}
    report = world.score(world.name(named))
    assert rows(report)[3] == 0
    assert rows(report)[1] > rows(honest)[1]


def test_late_sightings_can_still_be_named():
    # A sighting carries what it saw, whenever it leaves; only its score commitment must be early.
    world = make_world()
    world.drop(RecordKind.SIGHTING, 6, age=1)
    report = world.score()
    assert rows(report)[6] == rows(report)[5] - get_validator(report, 5).score_share
    assert get_validator(report, 6).refusal is Reason.NO_COMMIT


# Hosters


def test_a_hoster_is_unpaid_if_most_named_sightings_say_that_it_does_not_serve():
    world = make_world()
    for num_failed, is_unpaid in ((3, False), (4, True)):
        named = {
            node: world.sight(node, failed_probes={3} if node <= num_failed else ())
            for node in range(1, 8)
        }
        report = world.score(world.name(named))
        assert report.unpaid == ({3} if is_unpaid else set())
        assert (rows(report)[3] == 0) is is_unpaid
        assert rows(report)[1] == (3 * (POOL // 2) if is_unpaid else PART)


def test_two_lying_probers_of_ten_are_no_weapon():
    world = make_world(range(1, 11))
    named = {
        node: world.sight(node, failed_probes={1} if node > 8 else ()) for node in range(1, 11)
    }
    assert world.score(world.name(named)).unpaid == set()


def test_a_refuted_hoster_is_left_out_for_the_epoch_and_eight_more():
    world = make_world()
    world.host(3, vectors=WRONG)
    epochs = 0
    report = world.score()
    world.host(3)
    while 3 not in rows(report):
        epochs += 1
        world.probation = decode_args(
            encode_args(
                Naming(b"l" * 32, b"a" * 32, report.unpaid, report.probation), world.roster
            ),
            world.roster,
        ).probation
        report = world.score()
    assert epochs == 1 + MAINNET.probation_epochs
    assert rows(report)[3] == PART


# Validators


def test_score_rows_are_the_sums_before_division_and_a_tag_for_each_reveal():
    world = make_world()
    facts = replace(world.name(), previous=None)
    own = compute_score_rows(facts, validator=4, params=MAINNET)
    assert [(row.node_id, row.total) for row in own] == [(node, 3 * SCORE_ONE) for node in HOSTERS]
    for row in own:
        reveal = world.records[RecordKind.OUTPUT_REVEAL, EPOCH, row.node_id]
        assert row.tag == compute_tag(4, reveal.record_hash)


def test_sharing_a_layer_does_not_change_its_hosters_rows():
    world = make_world()
    alone = make_world()
    alone.drop(RecordKind.OUTPUT_COMMIT, 2, 3)
    alone.drop(RecordKind.OUTPUT_REVEAL, 2, 3)
    many = compute_score_rows(world.name(), validator=4, params=MAINNET)
    (one,) = compute_score_rows(alone.name(), validator=4, params=MAINNET)
    assert many[0] == one


def test_a_reveal_that_nothing_was_committed_to_has_a_row_of_0():
    world = make_world()
    world.reveal(7)
    own = compute_score_rows(world.name(), validator=4, params=MAINNET)
    assert [(row.node_id, row.total) for row in own][-1] == (7, 0)


@pytest.mark.parametrize("num_validators", [1, 2, 3])
def test_reveals_without_commits_cost_honest_validators_nothing(num_validators):
    world = make_world()
    world.reveal(7, age=1)
    for node in VALIDATORS[num_validators:]:
        world.drop(RecordKind.SIGHTING, node, age=1)
        world.drop(RecordKind.SCORE_REVEAL, node, age=1)
    world.score_before(*VALIDATORS[:num_validators])
    report = world.score()
    assert [get_validator(report, node).accuracy for node in VALIDATORS[:num_validators]] == [
        SCORE_ONE
    ] * num_validators


def test_a_validator_that_missed_one_reveal_loses_one_row_of_its_accuracy():
    world = make_world()
    missed = world.compute_rows_before(6, hidden={3})
    world.score_before(6, rows=missed)
    report = world.score()
    assert get_validator(report, 6).accuracy == 2 * SCORE_ONE // 3
    assert get_validator(report, 5).accuracy == SCORE_ONE
    assert rows(report)[5] == AUDITOR


def test_a_hoster_that_leaves_costs_validators_nothing():
    world = make_world()
    world.roster = make_roster([1, 2, 4, 5, 6, 7])
    world.drop(RecordKind.OUTPUT_COMMIT, 3)
    world.drop(RecordKind.OUTPUT_REVEAL, 3)
    report = world.score()
    assert [get_validator(report, node).accuracy for node in VALIDATORS] == [SCORE_ONE] * 3


def test_a_node_that_hosts_is_paid_for_that_alone():
    world = make_world()
    world.host(6)
    report = world.score()
    assert rows(report)[6] == rows(report)[1]
    assert 6 not in [one.node_id for one in report.validators]


def test_a_validator_on_probation_dilutes_nobody():
    world = make_world(probation={6: 3})
    report = world.score()
    assert 6 not in rows(report)
    # Two coldkeys audited and revealed scores; each has a half of either half.
    assert rows(report)[5] == divide(2)


def test_two_nodes_of_one_coldkey_share_one_part():
    world = make_world(owners={5: 4})
    report = world.score()
    assert rows(report)[4] == rows(report)[6] > 0 and rows(report)[5] == 0


def test_a_light_validator_is_paid_for_its_scores():
    world = make_world()
    world.drop(RecordKind.AUDIT_COMMIT, 6)
    world.drop(RecordKind.AUDIT_REVEAL, 6)
    report = world.score()
    assert rows(report)[6] == get_validator(report, 5).score_share
    assert rows(report)[6] < rows(report)[5]


def test_an_epoch_that_pays_no_hoster_pays_no_validator():
    world = make_world()
    named = {node: world.sight(node, failed_probes=HOSTERS) for node in range(1, 8)}
    assert set(rows(world.score(world.name(named))).values()) == {0}


def test_without_a_scored_epoch_before_validators_are_paid_for_audits_alone():
    world = make_world()
    world.previous = None
    world.records = {slot: one for slot, one in world.records.items() if slot[1] == EPOCH}
    report = world.score()
    assert rows(report)[4] == VALIDATORS_POOL // 2 // 3


# Rows


def test_silent_validators_are_left_out_and_a_named_sighting_is_not_silence():
    world = make_world()
    report = world.score(world.name(sighters=[1, 2, 3, 4, 5, 6]))
    assert 7 not in rows(report) and rows(world.score())[7] == 0


def test_nodes_that_join_later_have_a_row_before_they_have_a_record():
    world = make_world()
    world.next_roster = make_roster(
        range(1, 11),
        epoch=EPOCH + 1,
        classes={8: NodeClass.INCLUDED, 9: NodeClass.VALIDATOR, 10: NodeClass.IDLE},
    )
    report = world.score()
    assert rows(report)[8] == rows(report)[9] == 0 and 10 not in rows(report)


def test_nodes_that_left_have_no_row():
    world = make_world()
    world.next_roster = make_roster(range(2, 8), epoch=EPOCH + 1)
    assert 1 not in rows(world.score())


# Nothing to score


def test_a_proposal_of_nothing_lists_every_node_with_0():
    roster, following = make_roster(range(1, 8)), make_roster(range(2, 9), epoch=EPOCH + 1)
    report = score_nothing(roster, following, probation={}, seed=bytes(32))
    assert report.rows == tuple((node, 0) for node in range(2, 9))
    assert report.unpaid == set() and report.probation == {}


def test_a_proposal_of_nothing_continues_probation():
    roster, following = make_roster(range(1, 8)), make_roster(range(1, 8), epoch=EPOCH + 1)
    report = score_nothing(roster, following, probation={2: 1, 3: 5}, seed=bytes(32))
    assert report.probation == {3: 4}
    assert [node for node, _ in report.rows] == [1, 4, 5, 6, 7]


def test_a_proposal_of_nothing_forgets_nodes_that_left():
    roster, following = make_roster(range(1, 8)), make_roster(range(1, 8), epoch=EPOCH + 1)
    report = score_nothing(roster, following, probation={3: 5, 99: 8}, seed=bytes(32))
    assert encode_args(Naming(probation=report.probation), roster)


def test_an_epoch_without_records_pays_nobody():
    world = World(draw=DRAW)
    report = world.score()
    assert rows(report) == dict.fromkeys(range(1, 8), 0)


# Reports


def test_a_report_is_one_line_of_json_with_every_reason():
    world = make_world(probation={2: 3})
    world.host(3, vectors=WRONG)
    world.commit(7, seed=bytes(32))
    named = {node: world.sight(node, failed_probes={1}) for node in range(1, 8)}
    body = json.loads(world.score(world.name(named)).to_json())
    assert {one["subnet_node_id"]: one["penalty"] for one in body["hosters"]} == {
        1: "not_serving",
        2: "on_probation",
        3: "refuted",
    }
    assert body["probation"] == [[2, 2], [3, 8]] and body["unpaid"] == [1]
    assert body["failed_probes"] == [[1, 7]] and body["named_sightings"] == 7
    assert body["refusals"] == [["OUTPUT_COMMIT", 7, "wrong_seed"]]
    assert body["validators"][0]["rows"][0]["refusal"] is None
    assert body["validators"][0]["audit_refusal"] is None
    assert body["rows"] == [[node, "0"] for node in (1, 4, 5, 6, 7)]


# Any mixture


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_cheats_is_scored_alike_in_any_order_and_within_the_pools(seed):
    rng = random.Random(seed)
    nodes = range(1, 13)
    owners = {node: rng.choice(nodes) for node in nodes if rng.random() < 0.2}
    probation = {node: rng.randrange(1, 9) for node in nodes if rng.random() < 0.1}
    world = World(
        make_roster(nodes, owners=owners),
        previous=make_roster(nodes, epoch=EPOCH - 1, owners=owners),
        draw=DRAW if rng.random() < 0.9 else None,
        probation=probation,
    )
    near = (floats(1.0 + 2**-19, 0.5, -0.25, 0.125), *TRUTH[1:])
    for node in nodes:
        vectors = rng.choice([TRUTH, TRUTH, TRUTH, near, WRONG])
        start, end = rng.choice([(0, 2), (0, 2), (0, 1), (1, 2)])
        owed = vectors[start : end + (end == 2)]
        layers = LayerRange(start, end)
        for age in (0, 1):
            if rng.random() < 0.6:
                is_revealed = rng.random() < 0.9
                world.host(node, vectors=owed, layers=layers, age=age, is_revealed=is_revealed)
        if world.draw is not None and rng.random() < 0.4:
            world.audit(node, vectors=vectors, is_revealed=rng.random() < 0.9)
        if rng.random() < 0.4:
            hidden = {other for other in nodes if rng.random() < 0.1}
            world.score_before(
                node,
                rows=world.compute_rows_before(node, hidden=hidden),
                is_revealed=rng.random() < 0.9,
            )
    named = {}
    for node in rng.sample(nodes, 8):
        hidden = {slot for slot in world.records if rng.random() < 0.2}
        failed = {other for other in nodes if rng.random() < 0.3}
        named[node] = world.sight(node, hidden=hidden, failed_probes=failed)
    facts = world.name(named)
    report = world.score(facts)
    paid = sum(hoster.score for hoster in report.hosters)
    assert paid <= MAINNET.hoster_pool
    assert sum(one.score for one in report.validators) <= paid // 4
    assert sum(rows(report).values()) <= paid + paid // 4
    assert not set(rows(report)) & set(probation)
    assert encode_args(Naming(b"l" * 32, b"a" * 32, report.unpaid, report.probation), world.roster)
    shuffled = dict(rng.sample(list(facts.records.items()), len(facts.records)))
    turned = dict(rng.sample(list(facts.named.items()), len(facts.named)))
    assert world.score(replace(facts, records=shuffled, named=turned)) == report
