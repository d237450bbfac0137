"""What a node kept of an epoch is held against the chain: blocks, nodes, election, proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus.types import BlockNumber, Score, SubnetId, SubnetNodeId
from subnet.account.receipt_check import compare_with_chain
from subnet.chain.manifest_hash import format_manifest_hash
from subnet.epoch.interfaces import SubnetInfo
from subnet.errors import ChainUnavailable
from subnet.receipts.evidence import EpochEvidence
from tests.support.fakes import FakeReader
from tests.support.receipts import KeepingSubnet

SCORED = 1


class NamingReader(FakeReader):
    """A chain whose subnet names its manifest, as a real one does."""

    manifest_hash = b"m" * 32
    oldest = 0

    async def fetch_subnet(
        self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None
    ) -> SubnetInfo:
        info = await super().fetch_subnet(subnet_id, at_block=at_block)
        return replace(info, misc=format_manifest_hash(self.manifest_hash))

    async def fetch_nodes(self, subnet_id: SubnetId, *, at_block: BlockNumber | None = None):  # type: ignore[no-untyped-def]
        if at_block is not None and at_block < self.oldest:
            raise ChainUnavailable("the state is pruned")
        return await super().fetch_nodes(subnet_id, at_block=at_block)


@pytest.fixture
async def subnet() -> KeepingSubnet:
    subnet = KeepingSubnet()
    await subnet.run_to(4)
    return subnet


def change_row(evidence: EpochEvidence) -> EpochEvidence:
    proposal = evidence.submission
    assert proposal is not None
    (first, _), *rest = proposal.scores
    return replace(evidence, submission=replace(proposal, scores=((first, Score(1)), *rest)))


def change_args(evidence: EpochEvidence) -> EpochEvidence:
    assert evidence.submission is not None
    return replace(evidence, submission=replace(evidence.submission, args=b"other"))


def change_attested(evidence: EpochEvidence) -> EpochEvidence:
    assert evidence.submission is not None
    none = frozenset[SubnetNodeId]()
    return replace(evidence, submission=replace(evidence.submission, attested=none))


def drop_proposal(evidence: EpochEvidence) -> EpochEvidence:
    return replace(evidence, submission=None)


def change_hash(evidence: EpochEvidence) -> EpochEvidence:
    return replace(evidence, roster=replace(evidence.roster, block_hash=bytes(32)))


def change_node(evidence: EpochEvidence) -> EpochEvidence:
    first, *rest = evidence.following.nodes
    nodes = (replace(first, coldkey=bytes(20)), *rest)
    return replace(evidence, following=replace(evidence.following, nodes=nodes))


def change_draw(evidence: EpochEvidence) -> EpochEvidence:
    return replace(evidence, draw=bytes(32))


def change_elected(evidence: EpochEvidence) -> EpochEvidence:
    return replace(evidence, elected=SubnetNodeId(6))


async def test_what_honest_nodes_kept_is_what_the_chain_says(subnet: KeepingSubnet) -> None:
    for receipts in subnet.receipts.values():
        for evidence in receipts.kept.values():
            found = await compare_with_chain(NamingReader(subnet.chain), evidence)
            assert found == ((), ())


async def test_each_edited_field_is_named(subnet: KeepingSubnet) -> None:
    evidence = subnet.receipts[1].kept[SCORED]
    edits: dict[Callable[[EpochEvidence], EpochEvidence], str] = {
        change_row: "the proposal's rows are others on the chain",
        change_args: "the proposal's args are others on the chain",
        change_attested: "6 nodes attested, on the chain",
        drop_proposal: "the proposal: one stands on the chain",
        change_hash: "the nodes of epoch 1: chain block 20 has another hash",
        change_node: "the nodes of epoch 2 are others at chain block 40",
        change_draw: "the block that drew the audits: chain block 28 has another hash",
        change_elected: "the chain elected node 3 in epoch 2",
    }
    for edit, sentence in edits.items():
        differences, _ = await compare_with_chain(NamingReader(subnet.chain), edit(evidence))
        assert differences == (sentence,)


async def test_records_of_another_network_are_told_first(subnet: KeepingSubnet) -> None:
    reader = NamingReader(subnet.chain)
    reader.manifest_hash = bytes(32)
    differences, _ = await compare_with_chain(reader, subnet.receipts[1].kept[SCORED])
    assert differences == ("its records are of another chain, subnet or model",)


async def test_what_the_endpoint_no_longer_keeps_is_not_called_wrong(
    subnet: KeepingSubnet,
) -> None:
    reader = NamingReader(subnet.chain)
    reader.oldest = 30
    found = await compare_with_chain(reader, subnet.receipts[1].kept[SCORED])
    assert found == (
        (),
        (
            "the nodes of epoch 0: the endpoint no longer keeps chain block 0",
            "the nodes of epoch 1: the endpoint no longer keeps chain block 20",
        ),
    )


async def test_a_chain_that_does_not_answer_at_all_is_no_answer(subnet: KeepingSubnet) -> None:
    subnet.chain.is_down = True
    with pytest.raises(ChainUnavailable):
        await compare_with_chain(NamingReader(subnet.chain), subnet.receipts[1].kept[SCORED])
