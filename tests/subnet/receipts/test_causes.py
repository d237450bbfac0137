"""Each way to a score of 0, or to less than there was: the receipt names it, with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.errors import Reason
from consensus.missed import OwedDuty
from consensus.naming import Naming, encode_args
from consensus.records import RecordKind
from consensus.types import Epoch, LayerRange, NodeClass, Score, SubnetNodeId
from subnet.receipts.evidence import Notes
from subnet.receipts.reasons import LAYER_REFUSALS, REFUSALS, TABLE, Why, make_cause
from subnet.receipts.receipt import Comparison
from subnet.receipts.recompute import Basis, recompute
from tests.support.epoch_records import (
    EPOCH,
    TRUTH,
    WRONG,
    World,
    find_draw,
    floats,
    make_node,
    make_roster,
)
from tests.support.receipts import explain, list_reasons, make_evidence

HOSTERS = (1, 2, 3, 4)
AUDITORS = (5, 6, 7)
COMMIT, REVEAL = RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL


def make_world(**changes: object) -> World:
    """Return an epoch after a scored one: hosters 1 to 4, auditing validators 5 to 7."""
    world = World(previous=make_roster(epoch=EPOCH - 1), draw=find_draw(1), **changes)  # type: ignore[arg-type]
    world.host(*HOSTERS, age=1)
    world.host(*HOSTERS)
    world.audit(*AUDITORS)
    world.score_before(*AUDITORS)
    return world


def host_wrongly(world: World, node_id: int, **changes: object) -> None:
    """Let a hoster commit to and reveal something else instead."""
    for kind in (COMMIT, REVEAL):
        del world.records[kind, Epoch(EPOCH), SubnetNodeId(node_id)]
    world.host(node_id, **changes)  # type: ignore[arg-type]


def test_honest_work_equals_the_chain_and_has_no_reasons() -> None:
    evidence = make_evidence(make_world())
    for node_id in HOSTERS + AUDITORS:
        receipt = explain(evidence, node_id)
        assert receipt.comparison is Comparison.EQUAL
        assert receipt.score == receipt.proposed and receipt.score
        assert receipt.causes == ()


def test_every_reason_has_a_sentence_and_a_fix() -> None:
    assert set(TABLE) == set(Why)
    for why, entry in TABLE.items():
        assert entry.sentence and entry.fix, why
        assert not entry.sentence.endswith(".") and not entry.fix.endswith(".")


def test_a_cause_is_filled_in_wholly() -> None:
    cause = make_cause(Why.NOTHING_SCORED)
    assert "{" not in cause.sentence + cause.fix
    with pytest.raises(KeyError):
        make_cause(Why.REFUTED)


def test_a_cheat_on_an_audited_block_is_refuted() -> None:
    world = make_world()
    host_wrongly(world, 4, vectors=WRONG)
    receipt = explain(make_evidence(world), 4)
    assert receipt.score is None and receipt.comparison is Comparison.EQUAL
    assert list_reasons(receipt) == [Why.REFUTED, Why.OUTSIDE_TOLERANCE]
    assert "on the audited block 1" in receipt.causes[0].sentence
    assert "0, 1, head" in receipt.causes[1].sentence
    assert receipt.probation_after == 8


def test_a_cheat_on_another_block_is_outside_tolerance() -> None:
    world = make_world()
    host_wrongly(world, 4, vectors=(WRONG[0],), layers=LayerRange(0, 1))
    receipt = explain(make_evidence(world), 4)
    assert receipt.score == 0
    assert list_reasons(receipt) == [Why.OUTSIDE_TOLERANCE]


def test_a_vector_with_no_number_is_invalid() -> None:
    world = make_world()
    nan = floats(float("nan"), 0, 0, 0)
    host_wrongly(world, 4, vectors=(nan,), layers=LayerRange(0, 1))
    assert list_reasons(explain(make_evidence(world), 4)) == [Why.INVALID_VECTOR]


def test_a_block_on_which_no_majority_agrees_pays_no_node() -> None:
    world = make_world()
    for node_id in (1, 2, 3):
        host_wrongly(world, node_id, vectors=TRUTH[1:], layers=LayerRange(1, 2))
    host_wrongly(world, 4, vectors=(TRUTH[0],), layers=LayerRange(0, 1))
    host_wrongly(world, 3, vectors=(WRONG[0],), layers=LayerRange(0, 1))
    assert Why.NO_MAJORITY in list_reasons(explain(make_evidence(world), 4))


def test_a_commit_whose_audited_block_is_not_revealed_is_withheld() -> None:
    world = make_world()
    world.drop(REVEAL, 4)
    receipt = explain(make_evidence(world), 4)
    assert list_reasons(receipt) == [Why.WITHHELD, Why.RECORD_NOT_SEEN]
    assert "the next 2" in receipt.causes[0].sentence


def test_a_late_reveal_is_named_with_both_blocks() -> None:
    world = make_world()
    slot = (REVEAL, Epoch(EPOCH), SubnetNodeId(4))
    named = {node_id: world.sight(node_id, hidden=[slot]) for node_id in HOSTERS + AUDITORS}
    evidence = make_evidence(world, named=named, seen={(REVEAL, 4): 16})
    receipt = explain(evidence, 4)
    assert list_reasons(receipt) == [Why.WITHHELD, Why.RECORD_LATE]
    first = evidence.roster.first_block
    assert f"first saw it at block {first + 16}" in receipt.causes[1].sentence
    assert f"before block {first + 15}; 0 of 7" in receipt.causes[1].sentence


def test_a_record_that_too_few_list_is_counted() -> None:
    world = make_world()
    slot = (COMMIT, Epoch(EPOCH), SubnetNodeId(4))
    named = {node_id: world.sight(node_id) for node_id in (1, 2, 3)}
    named |= {node_id: world.sight(node_id, hidden=[slot]) for node_id in (4, 5, 6, 7)}
    receipt = explain(make_evidence(world, named=named), 4)
    assert receipt.score == 0
    assert list_reasons(receipt) == [Why.REVEAL_WITHOUT_COMMIT, Why.RECORD_TOO_FEW]
    assert "3 of 7 named sightings list the commit" in receipt.causes[1].sentence


def test_two_versions_of_a_commit_are_an_equivocation() -> None:
    world = make_world()
    half = {node_id: world.sight(node_id) for node_id in (1, 2, 3)}
    host_wrongly(world, 4, vectors=WRONG)
    other = {node_id: world.sight(node_id) for node_id in (5, 6, 7)}
    receipt = explain(make_evidence(world, named=half | other), 4)
    assert receipt.score is None
    assert list_reasons(receipt) == [Why.EQUIVOCATION]
    assert "signed 2 versions of its commit" in receipt.causes[0].sentence


def test_a_reveal_that_opens_nothing_is_named() -> None:
    world = make_world()
    world.drop(REVEAL, 4)
    world.reveal(4, salt=bytes(32))
    assert list_reasons(explain(make_evidence(world), 4))[-1] is Why.COMMITMENT_MISMATCH


def test_a_commit_to_another_challenge_is_named() -> None:
    world = make_world()
    world.drop(COMMIT, 4)
    world.commit(4, seed=b"s" * 32)
    assert list_reasons(explain(make_evidence(world), 4)) == [Why.WRONG_SEED]


def test_a_commit_to_blocks_that_the_model_lacks_is_named() -> None:
    world = make_world()
    world.drop(COMMIT, 4)
    world.commit(4, vectors=TRUTH[:2], layers=LayerRange(2, 3))
    assert list_reasons(explain(make_evidence(world), 4)) == [Why.WRONG_RANGE]


def test_a_proposal_that_names_nothing_pays_no_node() -> None:
    evidence = make_evidence(make_world())
    proposal = evidence.submission
    assert proposal is not None
    rows = tuple((node.node_id, Score(0)) for node in evidence.following.nodes)
    empty = replace(proposal, args=encode_args(Naming(), evidence.roster), scores=rows)
    evidence = replace(evidence, submission=empty)
    for node_id, why in ((4, Why.NOTHING_NAMED), (1, Why.NAMED_NOTHING)):
        receipt = explain(evidence, node_id)
        assert receipt.comparison is Comparison.EQUAL and receipt.score == 0
        assert list_reasons(receipt) == [why]


def test_a_silent_node_has_no_row_and_no_records() -> None:
    world = make_world()
    world.drop(COMMIT, 4)
    world.drop(REVEAL, 4)
    named = {n: world.sight(n) for n in HOSTERS + AUDITORS if n != 4}
    receipt = explain(make_evidence(world, named=named), 4)
    assert receipt.score is None
    assert list_reasons(receipt) == [Why.SILENT]


def test_a_node_that_only_looked_on_is_told_which_record_was_missing() -> None:
    world = make_world()
    world.drop(COMMIT, 4)
    world.drop(REVEAL, 4)
    receipt = explain(make_evidence(world), 4)
    assert receipt.score == 0 and receipt.is_named
    assert list_reasons(receipt) == [Why.RECORD_NOT_SEEN]
    assert "no commit of node 4" in receipt.causes[0].sentence


def test_the_keeping_node_is_told_why_it_did_not_commit() -> None:
    world = make_world()
    world.drop(COMMIT, 1)
    world.drop(REVEAL, 1)
    missed = ((Epoch(EPOCH), OwedDuty.OUTPUT_COMMIT.name, "the model is still loading"),)
    receipt = explain(make_evidence(world, notes=Notes(missed=missed)), 1)
    assert list_reasons(receipt) == [Why.RECORD_NOT_SEEN]
    assert receipt.causes[0].sentence.endswith("(the model is still loading)")


def test_a_hoster_on_probation_is_told_how_long() -> None:
    world = make_world(probation={SubnetNodeId(4): 3})
    receipt = explain(make_evidence(world), 4)
    assert receipt.score is None
    assert list_reasons(receipt) == [Why.ON_PROBATION]
    assert "3 epochs are left" in receipt.causes[0].sentence


def test_a_hoster_that_failed_its_probes_is_told_by_how_many() -> None:
    world = make_world()
    named = {n: world.sight(n, failed_probes=[4] if n < 5 else []) for n in HOSTERS + AUDITORS}
    receipt = explain(make_evidence(world, named=named), 4)
    assert receipt.score == 0
    assert list_reasons(receipt) == [Why.NOT_SERVING]
    assert "4 of 7 named validators" in receipt.causes[0].sentence
    assert receipt.failed_probes == (1, 2, 3, 4)


def test_a_validator_that_scored_otherwise_is_told_which_hosters() -> None:
    world = make_world()
    rows = list(world.compute_rows_before(7))
    rows[0] = rows[0]._replace(total=rows[0].total // 2)
    world.drop(RecordKind.SIGHTING, 7, age=1)
    world.drop(RecordKind.SCORE_REVEAL, 7, age=1)
    world.score_before(7, rows=rows)
    receipt = explain(make_evidence(world), 7)
    assert list_reasons(receipt) == [Why.SCORES_WRONG]
    assert "1 of 4 scores" in receipt.causes[0].sentence
    assert "(hosters 1)" in receipt.causes[0].sentence


def test_a_validator_that_did_not_reveal_its_scores_is_told_so() -> None:
    world = make_world()
    world.drop(RecordKind.SCORE_REVEAL, 7, age=1)
    receipt = explain(make_evidence(world), 7)
    assert list_reasons(receipt) == [Why.RECORD_NOT_SEEN]
    assert "no score reveal of node 7" in receipt.causes[0].sentence
    assert receipt.score


def test_a_validator_without_scores_is_told_so() -> None:
    world = make_world()
    world.drop(RecordKind.SIGHTING, 7, age=1)
    world.drop(RecordKind.SCORE_REVEAL, 7, age=1)
    world.commit_scores(7, None)
    assert list_reasons(explain(make_evidence(world), 7)) == [Why.NO_SCORES]


def test_the_first_scored_epoch_has_no_scores_to_pay_for() -> None:
    world = World(draw=find_draw(1))
    world.host(*HOSTERS)
    world.audit(*AUDITORS)
    assert list_reasons(explain(make_evidence(world), 7)) == [Why.NO_SCORES_EXPECTED]


def test_a_wrong_audit_is_not_paid() -> None:
    world = make_world()
    world.drop(RecordKind.AUDIT_COMMIT, 7)
    world.drop(RecordKind.AUDIT_REVEAL, 7)
    world.audit(7, vectors=WRONG)
    assert list_reasons(explain(make_evidence(world), 7)) == [Why.AUDIT_WRONG]


def test_an_audit_of_another_draw_does_not_count() -> None:
    world = make_world()
    world.drop(RecordKind.AUDIT_COMMIT, 7)
    world.drop(RecordKind.AUDIT_REVEAL, 7)
    world.audit(7, draw=find_draw(0))
    receipt = explain(make_evidence(world), 7)
    assert list_reasons(receipt) == [Why.AUDIT_NOT_COUNTED]
    assert "wrong draw" in receipt.causes[0].sentence


def test_a_validator_that_audits_nothing_is_told_so() -> None:
    world = make_world()
    world.drop(RecordKind.AUDIT_COMMIT, 7)
    world.drop(RecordKind.AUDIT_REVEAL, 7)
    assert list_reasons(explain(make_evidence(world), 7)) == [Why.NO_AUDIT]


def test_one_auditor_alone_is_paid_for_scores_only() -> None:
    world = make_world()
    for kind in (RecordKind.AUDIT_COMMIT, RecordKind.AUDIT_REVEAL):
        world.drop(kind, 5, 6)
    assert list_reasons(explain(make_evidence(world), 7)) == [Why.TOO_FEW_AUDITORS]


def test_a_second_validator_of_one_owner_is_told_which_node_is_paid() -> None:
    owners = {7: 6}
    world = make_world(roster=make_roster(owners=owners))
    world.previous = make_roster(epoch=EPOCH - 1, owners=owners)
    receipt = explain(make_evidence(world), 7)
    assert receipt.score == 0
    assert list_reasons(receipt) == [Why.SHARED_COLDKEY]
    assert "went to node 6" in receipt.causes[0].sentence


def test_a_node_that_joins_has_its_first_score_an_epoch_later() -> None:
    world = make_world()
    nodes = (*world.roster.nodes, make_node(8))
    world.next_roster = replace(make_roster(epoch=EPOCH + 1), nodes=nodes)
    receipt = explain(make_evidence(world), 8)
    assert receipt.score == 0
    assert list_reasons(receipt) == [Why.NOT_PRESENT_BEFORE]


def test_an_idle_node_is_told_its_class() -> None:
    roster = make_roster((*range(1, 8), 8), classes={8: NodeClass.IDLE})
    world = make_world(roster=roster)
    named = {n: world.sight(n) for n in HOSTERS + AUDITORS}
    receipt = explain(make_evidence(world, named=named), 8)
    assert list_reasons(receipt)[0] is Why.CLASS_TOO_LOW
    assert "class Idle" in receipt.causes[0].sentence


def test_an_elected_node_that_was_away_is_told_what_it_cost() -> None:
    notes = Notes(missed=((Epoch(EPOCH + 1), OwedDuty.PROPOSE.name, "no hotkey was given"),))
    evidence = make_evidence(make_world(), notes=notes)
    evidence = replace(evidence, submission=None)
    own, other = explain(evidence, 1), explain(evidence, 2)
    assert own.comparison is Comparison.NO_PROPOSAL
    assert list_reasons(own) == [Why.ELECTED_AWAY]
    assert "did not propose (no hotkey was given)" in own.causes[0].sentence
    assert list_reasons(other) == [Why.NO_PROPOSAL]
    assert "node 1 was elected" in other.causes[0].sentence


def test_an_epoch_without_election_pays_no_node() -> None:
    evidence = replace(make_evidence(make_world()), submission=None, elected=None)
    assert list_reasons(explain(evidence, 2)) == [Why.NO_ELECTION]


def test_an_epoch_in_which_nothing_was_scored_says_so() -> None:
    evidence = replace(make_evidence(make_world()), is_scored=False)
    again = recompute(evidence)
    assert again.basis is Basis.NOT_SCORED
    assert list_reasons(explain(evidence, 2)) == [Why.NOTHING_SCORED]


def test_too_few_attestations_are_counted() -> None:
    receipt = explain(make_evidence(make_world(), attested=[1, 2, 3]), 5)
    assert receipt.is_agreed is False
    assert list_reasons(receipt) == [Why.NOT_AGREED, Why.NOT_ATTESTED]
    assert "3 of 7 validators attested the proposal, and 66 % are needed" in (
        receipt.causes[0].sentence
    )


def test_a_refused_proposal_is_told_to_its_refuser_alone() -> None:
    notes = Notes(refused="node 3: proposed 1, computed 2")
    evidence = make_evidence(make_world(), attested=[2, 3, 4, 5, 6, 7], notes=notes)
    assert list_reasons(explain(evidence, 1)) == [Why.ATTESTATION_REFUSED]
    other = make_evidence(make_world(), attested=[1, 3, 4, 5, 6, 7], notes=notes)
    assert list_reasons(explain(other, 2)) == [Why.NOT_ATTESTED]


def test_a_dead_endpoint_is_told_by_the_blocks_that_came() -> None:
    world = make_world()
    world.drop(COMMIT, 1)
    world.drop(REVEAL, 1)
    notes = Notes(num_heads=3, chain_trouble="ws://chain: no answer")
    named = {n: world.sight(n) for n in HOSTERS + AUDITORS if n != 1}
    receipt = explain(make_evidence(world, named=named, notes=notes), 1)
    assert list_reasons(receipt) == [Why.FEW_HEADS, Why.SILENT]
    assert "only 3 of the epoch's 20 blocks reached this node (ws://chain: no answer)" in (
        receipt.causes[0].sentence
    )


@pytest.mark.parametrize("reason", Reason)
def test_no_reason_is_in_two_tables(reason: Reason) -> None:
    assert not (reason in REFUSALS and reason in LAYER_REFUSALS)


def test_a_bent_proposal_differs_and_the_row_is_named() -> None:
    world = make_world()
    rows = dict(make_evidence(world).submission.scores)  # type: ignore[union-attr]
    evidence = make_evidence(world, rows=rows | {3: 5})
    receipt = explain(evidence, 3)
    assert receipt.comparison is Comparison.DIFFERS
    assert receipt.differences == (f"node 3: proposed 5, computed {receipt.score}",)
    assert receipt.proposed == 5


def test_rows_of_nodes_that_left_may_be_missing_on_chain() -> None:
    world = make_world()
    rows = dict(make_evidence(world).submission.scores)  # type: ignore[union-attr]
    del rows[SubnetNodeId(4)]
    gone = frozenset({SubnetNodeId(4)})
    assert explain(make_evidence(world, rows=rows, departed=gone), 1).comparison is Comparison.EQUAL
    assert explain(make_evidence(world, rows=rows), 1).comparison is Comparison.DIFFERS


def test_what_the_keeping_node_did_not_see_is_marked() -> None:
    world = make_world()
    evidence = replace(make_evidence(world), seen=())
    receipt = explain(evidence, 5)
    assert receipt.comparison is Comparison.EQUAL
    assert "the audit commit of epoch 9 itself, when it travelled" in receipt.unseen
    assert explain(evidence, 1).unseen == ()
