"""Whole epochs with production code in a world of fakes."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from consensus.duties import Attest
from consensus.missed import OwedDuty
from consensus.records import RecordKind
from consensus.types import SCORE_ONE, Epoch, LayerRange, Role
from consensus.view import EpochStatus
from keys.envelope import decode_envelope
from mesh.errors import LayerNotOnDisk
from subnet.epoch import heads, loop
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyFailed,
    DutyMissed,
    Elected,
    EpochScored,
    EpochSettled,
    HeadHandled,
    ParticipationChanged,
    Unavailable,
    log_event,
)
from subnet.errors import ExtrinsicFailed
from tests.support.fakes import FakeChain, FakeNetwork, FakeReader, FakeWriter
from tests.support.node import (
    FakeNode,
    advance,
    advance_to,
    let_settle,
    make_roster_node,
    run_nodes,
)

HOSTERS = (1, 2, 3, 4)
VALIDATORS = (5, 6)
RANGES = {3: LayerRange(0, 2), 4: LayerRange(1, 4)}


class Subnet:
    def __init__(self, **chain_changes):
        nodes = tuple(make_roster_node(node_id) for node_id in HOSTERS + VALIDATORS)
        self.chain = FakeChain(nodes, **chain_changes)
        self.network = FakeNetwork()
        self.nodes = {
            node_id: FakeNode(
                node_id,
                self.chain,
                self.network,
                role=Role.HOSTER if node_id in HOSTERS else Role.VALIDATOR,
                layers=RANGES.get(node_id),
            )
            for node_id in HOSTERS + VALIDATORS
        }

    def run(self):
        return run_nodes(*self.nodes.values())


@pytest.fixture
def subnet():
    return Subnet()


async def test_every_epoch_ends_proposed_and_attested_by_all(subnet):
    async with subnet.run():
        await advance_to(subnet.chain, 5, 4)
    everybody = set(HOSTERS + VALIDATORS)
    for epoch in range(5):
        assert subnet.chain.submissions[epoch].attested == everybody, epoch
    reports = [event.report for event in subnet.nodes[1].list_events(EpochScored)]
    assert [report.epoch for report in reports] == [0, 1, 2, 3, 4]
    for node in subnet.nodes.values():
        assert [event.report.rows for event in node.list_events(EpochScored)] == [
            report.rows for report in reports
        ]


async def test_scores_pay_hosters_for_layers_and_validators_for_agreement(subnet):
    async with subnet.run():
        await advance_to(subnet.chain, 4, 4)
    first, second, third = (event.report for event in subnet.nodes[1].list_events(EpochScored)[:3])
    assert dict(subnet.chain.submissions[0].scores) == dict.fromkeys(HOSTERS + VALIDATORS, 0)
    scores = dict(first.rows)
    assert scores[1] > scores[4] > scores[3] > 0
    hosters = sum(scores[node] for node in HOSTERS)
    assert 39 * SCORE_ONE // 100 < hosters <= 4 * SCORE_ONE // 10
    # In the first epoch there are no scores of an earlier one, only audits.
    assert {validator.audit_refusal for validator in first.validators} == {None}
    assert not any(validator.score_share for validator in first.validators)
    for report in (second, third):
        rows = dict(report.rows)
        quarter = sum(rows[node] for node in HOSTERS) // 4
        paid = [rows[node] for node in VALIDATORS]
        assert min(paid) > 49 * quarter // 100
        assert sum(paid) <= quarter


async def test_a_light_validator_is_paid_for_scores_and_owes_no_audit(subnet):
    subnet.nodes[6].auditor = None
    async with subnet.run():
        await advance_to(subnet.chain, 3, 4)
    report = subnet.nodes[1].list_events(EpochScored)[1].report
    light = next(v for v in report.validators if v.node_id == 6)
    assert light.score_share and not light.audit_share
    assert not subnet.nodes[6].list_events(DutyMissed)
    assert RecordKind.AUDIT_COMMIT not in {kind for kind, _ in subnet.nodes[6].journal.own_records}


async def test_a_validator_whose_files_lack_the_drawn_layer_says_so_and_goes_on(subnet):
    class Incomplete:
        async def run_tasks(self, tasks):
            raise LayerNotOnDisk(tasks[0].layer, "no such file")

    subnet.nodes[6].auditor = Incomplete()
    async with subnet.run():
        await advance_to(subnet.chain, 2, 4)
    missed = subnet.nodes[6].list_events(DutyMissed)
    assert [(event.duty, event.epoch) for event in missed] == [
        (OwedDuty.AUDIT_COMMIT, 0),
        (OwedDuty.AUDIT_COMMIT, 1),
    ]
    assert "cannot be read: no such file" in missed[0].reason
    assert 6 in subnet.chain.submissions[2].attested


async def test_a_model_that_is_loaded_in_the_last_block_for_commits_still_commits(subnet):
    node = subnet.nodes[2]
    loaded, node.inference = node.inference, None
    async with subnet.run():
        await advance_to(subnet.chain, 1, 6)
        node.inference = loaded
        assert (RecordKind.OUTPUT_COMMIT, Epoch(1)) not in node.journal.own_records
        node.loop.plan_again()
        await let_settle()
        assert (RecordKind.OUTPUT_COMMIT, Epoch(1)) in node.journal.own_records
        await advance_to(subnet.chain, 2, 4)
    assert dict(subnet.chain.submissions[2].scores)[2] > 0


async def test_each_node_publishes_each_slot_once_and_reveals_after_commits_close(subnet):
    offsets = {}
    async with subnet.run():
        for _ in range(60):
            before = len(subnet.network.published)
            await advance(subnet.chain)
            for key, _ in subnet.network.published[before:]:
                offsets.setdefault(key, []).append(subnet.chain.position.offset)
    assert all(len(seen) == 1 for seen in offsets.values())
    for key, (offset,) in offsets.items():
        kind = RecordKind(key[len(b"mesh/rec") + 32])
        if kind in (RecordKind.OUTPUT_REVEAL, RecordKind.AUDIT_REVEAL, RecordKind.SCORE_REVEAL):
            assert offset >= 13
        if kind is RecordKind.OUTPUT_COMMIT:
            assert offset < 7
        if kind is RecordKind.AUDIT_COMMIT:
            assert 9 <= offset < 11


async def test_a_node_without_a_hotkey_commits_and_reveals_but_neither_proposes_nor_attests():
    subnet = Subnet(elect=lambda epoch: 2 if epoch == 3 else 1)
    subnet.nodes[2].writer = None
    async with subnet.run():
        await advance_to(subnet.chain, 3, 1)
    # In the block of its election it says that it cannot propose, and once.
    assert subnet.nodes[2].list_events(Elected) == [Elected(3, "no hotkey was given")]
    assert {event.unable for event in subnet.nodes[1].list_events(Elected)} == {None}
    assert subnet.chain.submissions[2].attested == {1, 3, 4, 5, 6}
    assert dict(subnet.chain.submissions[2].scores)[2] > 0


async def test_a_chain_outage_is_survived(subnet, monkeypatch):
    monkeypatch.setattr(heads, "RETRY_BLOCKS", 0)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 14)
        subnet.chain.is_down = True
        await advance(subnet.chain, 3)
        subnet.chain.is_down = False
        await advance_to(subnet.chain, 2, 10)
    lost = subnet.nodes[1].list_events(Unavailable)
    assert lost and lost[0].what == "chain"
    assert len(subnet.chain.submissions[2].attested) == 6


async def test_an_attestation_that_a_fork_undoes_is_sent_again(subnet):
    async with subnet.run():
        await advance_to(subnet.chain, 2, 0)
        while 4 not in getattr(subnet.chain.submissions.get(2), "attested", ()):
            await advance(subnet.chain)
        landed = subnet.chain.submissions[2]
        # The node sees that it landed, then the block is replaced by one without it.
        await advance(subnet.chain)
        subnet.chain.submissions[2] = replace(landed, attested=landed.attested - {4})
        await advance_to(subnet.chain, 2, 12)
    assert 4 in subnet.chain.submissions[2].attested


async def test_a_proposal_that_a_fork_undoes_is_sent_again_and_attested_by_all(subnet):
    async with subnet.run():
        await advance_to(subnet.chain, 2, 0)
        while 2 not in subnet.chain.submissions:
            await advance(subnet.chain)
        first = subnet.chain.submissions[2]
        await advance(subnet.chain)
        del subnet.chain.submissions[2]
        await advance_to(subnet.chain, 2, 14)
    assert subnet.chain.submissions[2].args == first.args
    assert subnet.chain.submissions[2].attested == set(HOSTERS + VALIDATORS)


async def test_a_stale_chain_is_sat_out_and_said():
    subnet = Subnet(finality_lag=8)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 19)
    statuses = {event.status.name for event in subnet.nodes[1].list_events(HeadHandled)}
    assert "CHAIN_STALE" in statuses
    # The chain's very first block is final from the start; the first of epoch 1 is not in time.
    assert {node.inference.runs for node in subnet.nodes.values() if node.node_id < 5} == {1}
    assert subnet.chain.submissions[1].attested


async def test_a_wrong_clock_signs_nothing_new(subnet):
    subnet.nodes[1].wall_offset_s = 31
    async with subnet.run():
        await advance_to(subnet.chain, 1, 0)
    assert subnet.nodes[1].inference.runs == 0
    assert subnet.nodes[2].inference.runs == 1


async def test_clocks_that_are_ten_seconds_off_change_nothing():
    async def run(offset_s):
        subnet = Subnet()
        subnet.nodes[1].wall_offset_s, subnet.nodes[6].wall_offset_s = offset_s, -offset_s
        async with subnet.run():
            await advance_to(subnet.chain, 4, 4)
        assert not any(node.list_events(DutyMissed) for node in subnet.nodes.values())
        return subnet.chain.submissions

    submissions = await run(10)
    assert submissions == await run(0)
    assert submissions[3].attested == set(HOSTERS + VALIDATORS)


async def test_an_epoch_without_election_is_not_worked_in():
    subnet = Subnet(elect=lambda epoch: None if epoch < 2 else 1)
    async with subnet.run():
        await advance_to(subnet.chain, 2, 2)
        assert subnet.nodes[1].inference.runs == 0
        await advance_to(subnet.chain, 4, 4)
    assert set(subnet.chain.submissions) == {2, 3, 4}
    assert {score for _, score in subnet.chain.submissions[2].scores} == {0}
    assert max(score for _, score in subnet.chain.submissions[3].scores) > 0
    assert len(subnet.chain.submissions[3].attested) == 6


async def test_a_proposal_that_differs_is_refused_with_the_difference():
    subnet = Subnet(elect=lambda epoch: 1)
    forged = ((1, 4 * SCORE_ONE // 10),)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 19)
        liar = subnet.nodes.pop(1).writer
        subnet.chain.height += 1
        await liar.propose(1, forged, None)
        subnet.chain.height -= 1
        await advance_to(subnet.chain, 2, 10)
    assert subnet.chain.submissions[2].attested == {1}
    for node in subnet.nodes.values():
        (refusal,) = node.list_events(AttestationRefused)
        assert refusal.detail == "args: the proposal has none"
        attested = [e.duty.epoch for e in node.list_events(DutyDone) if isinstance(e.duty, Attest)]
        assert 1 in attested and 2 not in attested


async def test_a_node_that_was_down_for_the_whole_scored_epoch_attests_and_is_heard_of():
    subnet = Subnet(elect=lambda epoch: 1)
    late = subnet.nodes.pop(6)
    async with subnet.run():
        await advance_to(subnet.chain, 2, 0)
        async with run_nodes(late):
            await advance_to(subnet.chain, 2, 4)
            assert subnet.chain.submissions[2].attested == set(HOSTERS + VALIDATORS)
    missed = {(event.duty, event.epoch) for event in late.list_events(DutyMissed)}
    assert missed == {
        (OwedDuty.AUDIT_COMMIT, 1),
        (OwedDuty.SIGHTING, 1),
        (OwedDuty.ATTEST, 1),
    }


async def test_a_node_that_was_down_for_the_whole_scored_epoch_proposes_when_elected():
    subnet = Subnet(elect=lambda epoch: 6 if epoch == 2 else 1)
    late = subnet.nodes.pop(6)
    async with subnet.run():
        await advance_to(subnet.chain, 2, 0)
        async with run_nodes(late):
            await advance_to(subnet.chain, 2, 5)
    submission = subnet.chain.submissions[2]
    assert submission.proposer == 6
    assert submission.attested == set(HOSTERS + VALIDATORS)
    assert all(dict(submission.scores)[node] > 0 for node in HOSTERS)


async def test_where_too_few_sightings_can_be_had_all_attest_that_nothing_was_scored():
    subnet = Subnet(elect=lambda epoch: 1)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 10)
        subnet.network.refuse = lambda key: key[40] == RecordKind.SIGHTING
        await advance_to(subnet.chain, 2, 2)
        assert 2 not in subnet.chain.submissions
        await advance_to(subnet.chain, 2, 5)
        subnet.network.refuse = None
        await advance_to(subnet.chain, 3, 5)
    assert dict(subnet.chain.submissions[2].scores) == dict.fromkeys(HOSTERS + VALIDATORS, 0)
    for epoch in (2, 3):
        assert subnet.chain.submissions[epoch].attested == set(HOSTERS + VALIDATORS)
    assert all(dict(subnet.chain.submissions[3].scores)[node] > 0 for node in HOSTERS)
    for node in subnet.nodes.values():
        (missed,) = node.list_events(DutyMissed)
        assert (missed.duty, missed.epoch) == (OwedDuty.SIGHTING, 1)
        assert missed.reason == "no replica has acknowledged the SIGHTING"


async def test_an_elected_node_that_cannot_propose_says_why_once():
    subnet = Subnet(elect=lambda epoch: 1)
    proposer = subnet.nodes[1]

    class BrokenWriter(FakeWriter):
        async def propose(self, subnet_id, scores, args):
            raise ExtrinsicFailed("Payment", "the account is empty")

    async with subnet.run():
        await advance_to(subnet.chain, 1, 10)
    proposer.writer = BrokenWriter(subnet.chain, 1)
    async with subnet.run():
        await advance_to(subnet.chain, 3, 4)
    (missed,) = proposer.list_events(DutyMissed)
    assert (missed.duty, missed.epoch) == (OwedDuty.PROPOSE, 2)
    assert missed.reason == "Payment: the account is empty"
    assert proposer.journal.missed[2] == {OwedDuty.PROPOSE: missed.reason}
    for node_id in (2, 5):
        assert not subnet.nodes[node_id].list_events(DutyMissed)


class SlowStore:
    """Answers nothing about the records of some kinds until it is told to."""

    def __init__(self, store, kinds, may_answer):
        self._store, self._kinds, self._may_answer = store, kinds, may_answer
        self.publish = store.publish

    async def fetch(self, keys, *, timeout_s):
        if any(key[40] in self._kinds for key in keys):
            await self._may_answer.wait()
        return await self._store.fetch(keys, timeout_s=timeout_s)


async def test_a_store_that_hangs_on_one_kind_delays_neither_reveals_nor_other_readings(
    monkeypatch,
):
    monkeypatch.setattr(loop, "READING_PATIENCE_BLOCKS", 0)
    subnet, may_answer = Subnet(elect=lambda epoch: 1), asyncio.Event()
    hung = subnet.nodes[2]
    hung.wrap_store = lambda store: SlowStore(store, {RecordKind.AUDIT_COMMIT}, may_answer)
    async with subnet.run():
        await advance_to(subnet.chain, 0, 19)
        seen = dict(hung.journal.get_timed_records(0))
        may_answer.set()
        await advance_to(subnet.chain, 1, 10)
    assert hung.journal.own_records[RecordKind.OUTPUT_REVEAL, 0].is_acknowledged
    assert {node for kind, node in seen if kind is RecordKind.OUTPUT_REVEAL} == set(HOSTERS)
    assert not {node for kind, node in seen if kind is RecordKind.AUDIT_COMMIT}
    assert dict(subnet.nodes[1].list_events(EpochScored)[0].report.rows)[2] > 0
    assert 2 in subnet.chain.submissions[1].attested


async def test_an_unacknowledged_record_is_published_again_unchanged(subnet):
    def is_commit(key):
        return key[40] == RecordKind.OUTPUT_COMMIT

    async with subnet.run():
        await advance_to(subnet.chain, 0, 2)
        subnet.network.refuse = is_commit
        await advance_to(subnet.chain, 0, 5)
        subnet.network.refuse = None
        await advance_to(subnet.chain, 1, 4)
    commits = [
        value
        for key, value in subnet.network.published
        if is_commit(key) and decode_envelope(value).epoch == 0
    ]
    assert len(commits) == 4 * 4
    assert len(set(commits)) == 4
    assert subnet.nodes[1].list_events(DutyFailed)
    (scored,) = subnet.nodes[5].list_events(EpochScored)
    assert len(scored.report.hosters) == 4


@pytest.mark.parametrize(
    ("died_at", "kinds"),
    [
        (4, {RecordKind.OUTPUT_COMMIT}),
        (10, {RecordKind.AUDIT_COMMIT}),
        (14, {RecordKind.OUTPUT_REVEAL, RecordKind.AUDIT_REVEAL}),
        (16, {RecordKind.SIGHTING}),
    ],
)
async def test_what_died_with_all_replicas_is_published_again_and_misses_nothing(died_at, kinds):
    subnet = Subnet(elect=lambda epoch: 1)
    late = subnet.nodes.pop(6)
    async with subnet.run():
        await advance_to(subnet.chain, 0, died_at)
    before = {key: value for key, value in subnet.network.values.items() if key[40] in kinds}
    subnet.network.values.clear()
    subnet.nodes[6] = late
    async with subnet.run():
        await advance_to(subnet.chain, 0, died_at + 1)
        assert before.items() <= subnet.network.values.items()
        published = len(subnet.network.published)
        await advance_to(subnet.chain, 0, died_at + 2)
        again = [key for key, _ in subnet.network.published[published:] if key in before]
        assert not again
        await advance_to(subnet.chain, 1, 10)
    seen = late.journal.get_timed_records(0)
    assert {kind for kind, node in seen if node != 6} >= kinds
    assert not subnet.nodes[1].list_events(DutyMissed)


async def test_what_died_with_all_replicas_is_published_again_before_anything_is_read(monkeypatch):
    subnet, never = Subnet(elect=lambda epoch: 1), asyncio.Event()
    # Its records stay missing, so the others go on reading.
    del subnet.nodes[6]
    async with subnet.run():
        await advance_to(subnet.chain, 0, 16)
    before = {k: v for k, v in subnet.network.values.items() if k[40] == RecordKind.SIGHTING}
    subnet.network.values.clear()
    monkeypatch.setattr(loop, "READING_PATIENCE_BLOCKS", 1e6)
    for node in subnet.nodes.values():
        node.wrap_store = lambda store: SlowStore(store, set(RecordKind), never)
    async with subnet.run():
        assert before.items() <= subnet.network.values.items()


async def test_settled_epochs_are_told_with_their_attestations(subnet):
    async with subnet.run():
        await advance_to(subnet.chain, 3, 0)
    settled = subnet.nodes[5].list_events(EpochSettled)
    assert [event.epoch for event in settled] == [0, 1, 2]
    assert all(len(event.submission.attested) == 6 for event in settled)


class SlowInference:
    """Answers only when it is told to."""

    def __init__(self, inference):
        self._inference = inference
        self.layers = inference.layers
        self.may_answer = asyncio.Event()

    async def run_tasks(self, tasks):
        await self.may_answer.wait()
        return await self._inference.run_tasks(tasks)


async def test_slow_inference_does_not_hold_up_the_loop_and_a_late_answer_is_not_committed():
    subnet = Subnet(elect=lambda epoch: 1)
    slow = subnet.nodes[2].inference = SlowInference(subnet.nodes[2].inference)
    async with subnet.run():
        await advance_to(subnet.chain, 0, 7)
        slow.may_answer.set()
        await advance_to(subnet.chain, 1, 10)
    own = subnet.nodes[2].journal.own_records
    assert (RecordKind.OUTPUT_COMMIT, 0) not in own
    assert (RecordKind.OUTPUT_COMMIT, 1) in own
    assert any("too late" in event.reason for event in subnet.nodes[2].list_events(DutyFailed))
    assert 2 in subnet.chain.submissions[1].attested


async def test_what_the_journal_holds_is_revealed_while_the_model_loads():
    subnet = Subnet(elect=lambda epoch: 1)
    restarted = subnet.nodes.pop(2)
    async with subnet.run():
        async with run_nodes(restarted):
            await advance_to(subnet.chain, 0, 6)
        restarted.inference = None
        async with run_nodes(restarted):
            await advance_to(subnet.chain, 1, 5)
    (report, *_) = [event.report for event in subnet.nodes[5].list_events(EpochScored)]
    assert dict(report.rows)[2] > 0


async def test_an_unexpected_error_ends_the_node(subnet):
    class BrokenInference:
        layers = LayerRange(0, 4)

        async def run_tasks(self, tasks):
            raise ZeroDivisionError

    subnet.nodes[1].inference = BrokenInference()
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with run_nodes(subnet.nodes[1]):
            await advance_to(subnet.chain, 1, 0)


async def test_a_node_without_pay_publishes_nothing_and_the_others_score_as_ever(subnet):
    unpaid = subnet.nodes[4]
    unpaid.is_paid = False
    async with subnet.run():
        await advance_to(subnet.chain, 3, 0)
    assert unpaid.list_events(HeadHandled)
    assert not unpaid.list_events(DutyDone) and not unpaid.list_events(DutyFailed)
    paid = {node for node, score in subnet.chain.submissions[2].scores if score}
    assert {1, 2, 3} <= paid and 4 not in paid
    assert subnet.chain.submissions[2].attested == set(HOSTERS + VALIDATORS) - {4}


class InflatingReader(FakeReader):
    """Tells once, when asked to, of a block of a year hence."""

    is_lying = False

    async def heads(self):
        async for head in super().heads():
            if self.is_lying:
                self.is_lying = False
                yield self._chain.get_block(5_000_000)
            yield head


async def test_an_inflated_head_is_refused_and_the_epoch_worked_to_its_end(subnet, monkeypatch):
    monkeypatch.setattr(heads, "DOUBT_RETRY_BLOCKS", 0)
    liar = subnet.nodes[1]
    liar.reader = InflatingReader(subnet.chain)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 4)
        liar.reader.is_lying = True
        await advance_to(subnet.chain, 2, 10)
    assert not liar.reader.is_lying
    (doubt,) = liar.list_events(Unavailable)
    assert "block 5000000 is out of line" in doubt.detail
    assert liar.list_events(HeadHandled)[-1].position.block == subnet.chain.height
    assert 1 in subnet.chain.submissions[1].attested & subnet.chain.submissions[2].attested
    assert max(liar.journal.elections) <= 2


async def test_a_leap_of_the_chain_is_asked_about_again_and_then_worked_with():
    """The chain leaps and then stands still: its head is believed when it is told again."""
    subnet, blocks = Subnet(block_time_s=1), 400
    node = subnet.nodes[1]
    async with run_nodes(node):
        await advance_to(subnet.chain, 1, 4)
        # The clock on the wall does not leap with it.
        node.wall_offset_s = -blocks
        subnet.chain.height += blocks - 1
        await advance(subnet.chain)
        assert "is out of line" in node.list_events(Unavailable)[-1].detail
        for _ in range(600):
            if node.list_events(HeadHandled)[-1].position.block == subnet.chain.height:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the head was never believed")


async def test_it_says_once_whether_it_takes_part_and_at_each_change_why_not(subnet):
    node = subnet.nodes[1]
    async with subnet.run():
        await advance_to(subnet.chain, 2, 4)
        node.wall_offset_s = 3600
        await advance(subnet.chain, 3)
        node.wall_offset_s = 0
        await advance_to(subnet.chain, 4, 4)
    told = [(event.epoch, event.status.name) for event in node.list_events(ParticipationChanged)]
    assert told == [(0, "ACTIVE"), (2, "CLOCK_SKEW"), (2, "ACTIVE")]


def test_a_change_is_one_line_with_the_reason():
    with capture_logs() as lines:
        log_event(ParticipationChanged(Epoch(7), EpochStatus.CHAIN_STALE))
        log_event(ParticipationChanged(Epoch(8), EpochStatus.ACTIVE))
    assert lines == [
        {
            "event": "this node does not take part",
            "epoch": 7,
            "reason": "the epoch's first block was not final in time",
            "log_level": "info",
        },
        {"event": "this node takes part", "epoch": 8, "log_level": "info"},
    ]
