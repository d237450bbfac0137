"""What a node attests: proposals whose named records it had, and whose every number it found."""

from dataclasses import replace

import pytest

from consensus.duties import Attest, Propose
from consensus.errors import ProposalMismatch
from consensus.naming import NOTHING_NAMED, Naming, decode_args, encode_args
from consensus.records import NamedList, RecordKind, decode_named_list, encode_named_list
from consensus.types import Role
from subnet.epoch.gatherer import Gatherer
from subnet.epoch.judge import Judge
from subnet.errors import DutyPostponed
from tests.support.fakes import FakeChain, FakeNetwork
from tests.support.node import FakeNode, advance_to, make_roster_node, run_nodes

NODES = (1, 2, 3, 4)
SCORED, PROPOSED = 2, 3


class Scene:
    """Four nodes after a whole epoch, and the judge of one that did not judge its proposal yet."""

    def __init__(self, node, chain, nodes) -> None:
        self.node, self.chain, self.nodes = node, chain, nodes
        self.judge = Judge(node.context, Gatherer(node.context))
        self.roster = node.journal.rosters[SCORED]
        self.submission = chain.submissions[PROPOSED]
        self.naming = decode_args(self.submission.args, self.roster)

    async def check(self, **changes):
        naming = replace(self.naming, **changes)
        return await self.check_args(encode_args(naming, self.roster))

    async def check_args(self, args):
        duty = Attest(PROPOSED, SCORED, is_first=False)
        return await self.judge.check(duty, replace(self.submission, args=args))

    async def name(self, rows):
        """Let the proposer sign a list of these rows, and return its hash."""
        proposer = self.nodes[self.submission.proposer]
        next_roster = self.node.journal.rosters[PROPOSED]
        body = encode_named_list(NamedList(tuple(rows)))
        record = proposer.context.author.seal(RecordKind.NAMED_LIST, next_roster, body)
        await self.node.journal.record_fetched([record], are_named=True)
        return record.record_hash

    def list_named(self):
        record = self.node.journal.find_by_name(self.naming.list_hash[:16])
        return decode_named_list(record.body).rows


@pytest.fixture
async def scene():
    chain, network = FakeChain(tuple(make_roster_node(n) for n in NODES)), FakeNetwork()
    roles = {node_id: Role.HOSTER if node_id < 3 else Role.VALIDATOR for node_id in NODES}
    nodes = {n: FakeNode(n, chain, network, role=roles[n]) for n in NODES}
    async with run_nodes(*nodes.values()):
        await advance_to(chain, PROPOSED, 5)
    other = next(n for n in NODES if n != chain.submissions[PROPOSED].proposer)
    return Scene(nodes[other], chain, nodes)


async def test_the_proposal_as_it_stands_is_what_this_node_computes(scene):
    report = await scene.check()
    assert report.rows == tuple(sorted(scene.submission.scores))


@pytest.mark.parametrize("args", [None, b"", b"\x01" * 80, bytes(4096)])
async def test_args_of_another_shape_are_refused(scene, args):
    with pytest.raises(ProposalMismatch, match="args"):
        await scene.check_args(args)


async def test_other_accepted_records_are_refused(scene):
    with pytest.raises(ProposalMismatch, match="accepted records"):
        await scene.check(accepted_hash=b"x" * 32)


async def test_an_invented_unpaid_hoster_or_probation_is_refused(scene):
    with pytest.raises(ProposalMismatch, match="unpaid"):
        await scene.check(unpaid=frozenset({1}))
    with pytest.raises(ProposalMismatch, match="probation"):
        await scene.check(probation={2: 8})


async def test_a_proposal_that_names_nothing_is_refused_while_sightings_can_be_had(scene):
    with pytest.raises(ProposalMismatch, match="names no sightings, and 4 of 3 can be had"):
        await scene.check_args(encode_args(Naming(), scene.roster))


async def test_a_list_that_cannot_be_had_is_waited_for(scene):
    with pytest.raises(DutyPostponed, match="named list cannot be had"):
        await scene.check(list_hash=b"x" * 32)


async def test_a_list_of_too_few_sightings_is_refused(scene):
    few = await scene.name(scene.list_named()[:2])
    with pytest.raises(ProposalMismatch, match="2 of 3 sightings"):
        await scene.check(list_hash=few)


async def test_a_list_of_one_sighting_for_every_validator_is_refused(scene):
    """The one of the highest position: its own slot is the last one that the hash stands for."""
    rows = scene.list_named()
    alone = await scene.name(row._replace(record_hash=rows[-1].record_hash) for row in rows)
    with pytest.raises(ProposalMismatch, match="one sighting stands for several nodes"):
        await scene.check(list_hash=alone)


async def test_a_list_that_names_an_unknown_position_is_refused(scene):
    rows = [*scene.list_named()[:3], scene.list_named()[0]._replace(position=9)]
    unknown = await scene.name(rows)
    with pytest.raises(ProposalMismatch, match="position 9"):
        await scene.check(list_hash=unknown)


async def test_a_sighting_that_matches_nothing_is_waited_for(scene):
    first, *rest = scene.list_named()
    missing = await scene.name([first._replace(record_hash=b"x" * 32), *rest])
    with pytest.raises(DutyPostponed, match="sighting of node .* cannot be had"):
        await scene.check(list_hash=missing)


async def test_the_same_start_of_a_hash_is_not_the_same_record(scene):
    """A name has 16 bytes; the whole hash decides."""
    first, *rest = scene.list_named()
    twin = first._replace(record_hash=first.record_hash[:16] + bytes(16))
    other = await scene.name([twin, *rest])
    with pytest.raises(DutyPostponed, match="cannot be had"):
        await scene.check(list_hash=other)


async def test_a_proposer_killed_after_it_signed_its_list_proposes_by_the_same_list(scene):
    """An author signs one list for an epoch: another would be refused by its own journal."""
    proposer = scene.nodes[scene.submission.proposer]
    again = Judge(proposer.context, Gatherer(proposer.context))
    duty = Propose(PROPOSED, SCORED, is_first=False)
    proposal = await again.prepare(duty, may_give_up=False)
    assert proposal.args == scene.submission.args
    signed = proposer.journal.own_records[RecordKind.NAMED_LIST, PROPOSED]
    assert proposal.list_body == signed.envelope.body


async def test_nothing_named_stands_for_two_hashes(scene):
    assert Naming().is_empty
    assert scene.naming.list_hash != NOTHING_NAMED != scene.naming.accepted_hash


def make_scoring_node(node, scorer):
    """Return a judge that knows what the node knows, with the subnet's own scorer."""
    context = replace(node.context, scorer=scorer)
    return Judge(context, Gatherer(context))


async def test_a_proposal_by_another_rule_of_pay_is_not_what_this_node_computes(scene):
    scene.judge = make_scoring_node(scene.node, lambda works: [7 for _ in works])
    report = await scene.check()
    assert {one.score for one in report.hosters if one.penalty is None} == {7}
    assert report.rows != tuple(sorted(scene.submission.scores))


async def test_a_scorer_that_fails_postpones_the_duty_with_its_reason(scene):
    scene.judge = make_scoring_node(scene.node, lambda works: [0.5 for _ in works])
    with pytest.raises(DutyPostponed, match="it gave a float, not an integer"):
        await scene.check()
    with pytest.raises(DutyPostponed, match="it gave a float, not an integer"):
        await scene.judge.report(SCORED)
