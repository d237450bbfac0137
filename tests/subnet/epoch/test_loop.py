"""Whole epochs with production code in a world of fakes."""

import asyncio

import pytest

from consensus.records import RecordKind
from consensus.types import SCORE_ONE, LayerRange, Role
from subnet.epoch import heads
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyFailed,
    EpochScored,
    EpochSettled,
    HeadHandled,
    Unavailable,
)
from tests.support.fakes import FakeChain, FakeNetwork, FakeReader
from tests.support.node import FakeNode, advance, advance_to, make_roster_node, run_nodes

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
        await advance_to(subnet.chain, 5, 0)
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
        await advance_to(subnet.chain, 4, 0)
    first, second, third = (event.report for event in subnet.nodes[1].list_events(EpochScored)[:3])
    assert dict(subnet.chain.submissions[0].scores) == dict.fromkeys(HOSTERS + VALIDATORS, 0)
    scores = dict(first.rows)
    assert [scores[node] for node in VALIDATORS] == [0, 0]
    assert scores[1] > scores[4] > scores[3] > 0
    assert sum(scores.values()) <= 4 * SCORE_ONE // 10
    assert sum(scores.values()) > 39 * SCORE_ONE // 100
    for report in (second, third):
        paid = [dict(report.rows)[node] for node in VALIDATORS]
        assert all(score > 29 * SCORE_ONE // 100 for score in paid)
        assert sum(paid) <= 6 * SCORE_ONE // 10


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
        if kind in (RecordKind.OUTPUT_REVEAL, RecordKind.SCORE_REVEAL):
            assert offset >= 11
        if kind is RecordKind.OUTPUT_COMMIT:
            assert offset < 9


async def test_a_node_without_a_hotkey_commits_and_reveals_but_neither_proposes_nor_attests():
    subnet = Subnet(elect=lambda epoch: 1)
    subnet.nodes[2].writer = None
    async with subnet.run():
        await advance_to(subnet.chain, 2, 10)
    assert subnet.chain.submissions[2].attested == {1, 3, 4, 5, 6}
    assert dict(subnet.chain.submissions[2].scores)[2] > 0


async def test_a_chain_outage_is_survived(subnet, monkeypatch):
    monkeypatch.setattr(heads, "HEADS_RETRY_S", 0)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 14)
        subnet.chain.is_down = True
        await advance(subnet.chain, 3)
        subnet.chain.is_down = False
        await advance_to(subnet.chain, 2, 10)
    lost = subnet.nodes[1].list_events(Unavailable)
    assert lost and lost[0].what == "chain"
    assert len(subnet.chain.submissions[2].attested) == 6


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


async def test_an_epoch_without_election_is_not_worked_in():
    subnet = Subnet(elect=lambda epoch: None if epoch < 2 else 1)
    async with subnet.run():
        await advance_to(subnet.chain, 2, 2)
        assert subnet.nodes[1].inference.runs == 0
        await advance_to(subnet.chain, 4, 0)
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
        assert "computed" in refusal.detail


async def test_a_node_that_was_down_during_the_window_does_not_attest():
    subnet = Subnet(elect=lambda epoch: 1)
    late = subnet.nodes.pop(6)
    async with subnet.run():
        await advance_to(subnet.chain, 1, 12)
        async with run_nodes(late):
            await advance_to(subnet.chain, 2, 19)
            assert 6 not in subnet.chain.submissions[2].attested
            assert len(subnet.chain.submissions[2].attested) == 5
            await advance_to(subnet.chain, 4, 19)
    assert 6 in subnet.chain.submissions[4].attested


async def test_an_unacknowledged_record_is_published_again_unchanged(subnet):
    def is_commit(key):
        return key[40] == RecordKind.OUTPUT_COMMIT

    async with subnet.run():
        await advance_to(subnet.chain, 0, 2)
        subnet.network.refuse = is_commit
        await advance_to(subnet.chain, 0, 5)
        subnet.network.refuse = None
        await advance_to(subnet.chain, 1, 1)
    commits = [value for key, value in subnet.network.published if is_commit(key)]
    assert len(commits) == 4 * 4
    assert len(set(commits)) == 4
    assert all(node.inference.runs == 1 for node in subnet.nodes.values() if node.node_id < 5)
    assert subnet.nodes[1].list_events(DutyFailed)
    (scored,) = subnet.nodes[5].list_events(EpochScored)
    assert len(scored.report.hosters) == 4


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
        await advance_to(subnet.chain, 0, 9)
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
            await advance_to(subnet.chain, 0, 8)
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
    monkeypatch.setattr(heads, "DOUBT_RETRY_S", 0)
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
