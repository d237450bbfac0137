"""A proposal and an attestation are looked up, written down, sent once, or explained."""

from dataclasses import replace

import pytest

from consensus.duties import Attest, Propose
from consensus.report import EpochReport
from consensus.types import EpochPosition, NodeClass
from subnet.chain.failures import make_failure
from subnet.epoch.observer import AttestationRefused, ExtrinsicLanded
from subnet.epoch.rosters import Rosters
from subnet.epoch.submitter import Submitter
from subnet.errors import ChainUnavailable, DutyPostponed, ExtrinsicFailed
from subnet.journal.journal import Extrinsic
from tests.support.fakes import SUBNET_ID, FakeChain, FakeReader, FakeWriter
from tests.support.node import make_context, make_journal, make_roster_node, make_terms

ROWS = ((1, 10), (2, 20))
ARGS = b"args"
PROPOSE, ATTEST = Propose(1, 0, False), Attest(1, 0, False)


class Scene:
    def __init__(self):
        nodes = (make_roster_node(1), make_roster_node(2))
        self.chain = FakeChain(nodes, elect=lambda epoch: 1, height=25)
        self.journal = make_journal()
        self.rosters = Rosters(
            make_terms(self.chain), reader=FakeReader(self.chain), journal=self.journal
        )
        self.events = []
        self.writers = {node_id: FakeWriter(self.chain, node_id) for node_id in (1, 2)}

    def make_submitter(self, node_id, writer=None):
        context = make_context(
            self.chain,
            node_id,
            journal=self.journal,
            rosters=self.rosters,
            observe=self.events.append,
        )
        return Submitter(context, writer or self.writers[node_id])

    async def propose(self, rows=ROWS):
        await self.make_submitter(1).propose(PROPOSE, rows, ARGS, head=25)

    def let_attest(self, attested, *, voters):
        """Let so many of ``voters`` stand as attestors of the proposal."""
        self.chain.submissions[1] = replace(
            self.chain.submissions[1],
            attested=frozenset({1, *range(3, 2 + attested)}),
            voters=frozenset(range(1, voters + 1)),
        )

    async def attest(self, rows, *, postponed=None, offset=6):
        async def check(duty, submission):
            assert (duty, submission.args) == (ATTEST, ARGS)
            if postponed is not None:
                raise DutyPostponed(postponed)
            return EpochReport(0, b"seed", rows=rows)

        head = EpochPosition(1, offset, 20, first_block=20)
        await self.make_submitter(2).attest(ATTEST, check, head=head)


@pytest.fixture
def scene():
    return Scene()


async def test_a_proposal_is_written_down_before_it_is_sent(scene):
    attempts = []

    class Writer(FakeWriter):
        async def propose(self, subnet_id, scores, args):
            attempts.append(scene.journal.get_attempts(Extrinsic.PROPOSE, 1))
            return await super().propose(subnet_id, scores, args)

    await scene.make_submitter(1, Writer(scene.chain, 1)).propose(PROPOSE, ROWS, ARGS, head=25)
    assert [(attempt.count, attempt.last_block) for attempt in attempts] == [(1, 25)]
    assert scene.chain.submissions[1].scores == ROWS
    assert isinstance(scene.events[0], ExtrinsicLanded)


async def test_a_proposal_that_stands_on_chain_is_not_sent_again(scene):
    await scene.propose()
    await scene.propose()
    assert scene.writers[1].sent == [("propose", 1)]


async def test_an_equal_proposal_is_attested_once(scene):
    await scene.propose()
    for _ in range(2):
        await scene.attest(ROWS)
    assert scene.writers[2].sent == [("attest", 1)]
    assert scene.chain.submissions[1].attested == {1, 2}


@pytest.mark.parametrize("own", [((1, 10), (2, 21)), ((1, 10),), ROWS + ((3, 0),), ()])
async def test_a_different_proposal_is_refused_and_the_difference_kept(scene, own):
    scene.chain.nodes += (make_roster_node(3),)
    await scene.propose()
    await scene.attest(own)
    assert scene.writers[2].sent == []
    assert isinstance(scene.events[-1], AttestationRefused)
    assert scene.journal.refused[1] == scene.events[-1].detail


@pytest.mark.parametrize("name", ["prioritize_queue_node_id", "remove_queue_node_id"])
async def test_a_proposal_that_names_a_queued_node_is_refused_though_its_rows_are_ours(scene, name):
    await scene.propose()
    scene.chain.submissions[1] = replace(scene.chain.submissions[1], **{name: 7})
    await scene.attest(ROWS)
    assert scene.writers[2].sent == []
    assert isinstance(scene.events[-1], AttestationRefused)
    assert name in scene.journal.refused[1]


async def test_what_cannot_be_had_is_waited_for_and_refused_when_time_is_over(scene):
    await scene.propose()
    scene.let_attest(3, voters=9)
    missing = "the sighting of node 2 cannot be had"
    for offset in (15, 16, 17):
        with pytest.raises(DutyPostponed):
            await scene.attest(ROWS, postponed=missing, offset=offset)
    assert not scene.journal.refused
    await scene.attest(ROWS, postponed=missing, offset=18)
    assert scene.journal.refused[1] == (
        "it could not be attested in time: the sighting of node 2 cannot be had"
    )
    assert scene.writers[2].sent == []


async def test_a_proposal_is_attested_at_the_deadline_and_after_it_only_if_a_third_did(scene):
    await scene.propose()
    scene.let_attest(3, voters=9)
    with pytest.raises(DutyPostponed):
        await scene.attest(ROWS, offset=17)
    assert scene.writers[2].sent == []
    await scene.attest(ROWS, offset=16)
    assert scene.writers[2].sent == [("attest", 1)]


async def test_a_list_that_some_have_at_the_deadline_is_waited_for_by_the_others(scene):
    """More than a third attested: an honest node has the list, so that others will get it too."""
    await scene.propose()
    scene.let_attest(4, voters=9)
    for offset in (16, 17):
        with pytest.raises(DutyPostponed):
            await scene.attest(ROWS, postponed="the named list cannot be had", offset=offset)
    assert not scene.journal.refused
    await scene.attest(ROWS, offset=17)
    assert scene.writers[2].sent == [("attest", 1)]


async def test_a_proposal_is_refused_at_the_last_head_at_which_an_attestation_could_land(scene):
    await scene.propose()
    scene.let_attest(9, voters=9)
    await scene.attest(ROWS, postponed="the named list cannot be had", offset=18)
    assert "the named list cannot be had" in scene.journal.refused[1]


async def test_rows_of_nodes_that_left_the_chain_are_no_difference(scene):
    """The chain drops the rows of unknown and idle nodes from a proposal."""
    scene.chain.nodes += (make_roster_node(4, NodeClass.IDLE),)
    await scene.propose()
    await scene.attest((*ROWS, (3, 5), (4, 6)))
    assert scene.chain.submissions[1].attested == {1, 2}


async def test_a_refused_extrinsic_is_recorded_and_stays_owed(scene):
    with pytest.raises(DutyPostponed, match="InvalidValidator"):
        await scene.make_submitter(2).propose(PROPOSE, ROWS, ARGS, head=25)
    assert scene.journal.get_attempts(Extrinsic.PROPOSE, 1).count == 1
    assert not scene.chain.submissions


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("Expired", "no block took it in its lifetime"),
        ("Stale", "its nonce has been used already"),
        ("Payment", "the account cannot pay the fee"),
        ("SubnetRewardsAlreadySubmitted", "this epoch has a proposal already"),
    ],
)
async def test_an_extrinsic_that_is_refused_or_lost_says_why_the_duty_is_not_done(
    scene, reason, sentence
):
    class Writer(FakeWriter):
        async def propose(self, subnet_id, scores, args):
            raise make_failure(reason, call="Network.propose_attestation")

    with pytest.raises(DutyPostponed, match=f"{reason}: Network.propose_attestation .*{sentence}"):
        await scene.make_submitter(1, Writer(scene.chain, 1)).propose(PROPOSE, ROWS, ARGS, head=25)


async def test_an_extrinsic_that_lands_after_its_epoch_is_late_and_no_success(scene):
    await scene.rosters.locate(scene.chain.get_block(scene.chain.height))

    class Writer(FakeWriter):
        async def propose(self, subnet_id, scores, args):
            receipt = await super().propose(subnet_id, scores, args)
            return replace(receipt, block_number=40)

    with pytest.raises(DutyPostponed, match="Late: .* epoch 1 landed in block 40, .* epoch 2"):
        await scene.make_submitter(1, Writer(scene.chain, 1)).propose(PROPOSE, ROWS, ARGS, head=25)
    assert not scene.events


async def test_a_proposal_that_left_the_chain_is_waited_for(scene):
    with pytest.raises(DutyPostponed):
        await scene.attest(ROWS)
    assert not scene.writers[2].sent


async def test_an_outage_before_the_lookup_sends_nothing(scene):
    scene.chain.is_down = True
    with pytest.raises(ChainUnavailable):
        await scene.propose()
    assert scene.journal.get_attempts(Extrinsic.PROPOSE, 1).count == 0


async def test_an_outage_while_sending_counts_as_an_attempt(scene):
    class Writer(FakeWriter):
        async def propose(self, subnet_id, scores, args):
            raise ChainUnavailable("cut off")

    with pytest.raises(ChainUnavailable):
        await scene.make_submitter(1, Writer(scene.chain, 1)).propose(PROPOSE, ROWS, ARGS, head=25)
    assert scene.journal.get_attempts(Extrinsic.PROPOSE, 1).count == 1


async def test_the_fake_chain_refuses_what_the_pallet_refuses(scene):
    await scene.propose()
    with pytest.raises(ExtrinsicFailed, match="SubnetRewardsAlreadySubmitted"):
        await scene.writers[1].propose(SUBNET_ID, ROWS, None)
    with pytest.raises(ExtrinsicFailed, match="AlreadyAttested"):
        await scene.writers[1].attest(SUBNET_ID)
