"""Who joins a running subnet is paid: from the queue to the first reward, on every chain.

Two nodes join. The proposals list both by the rule of ``consensus.rows``, except that the second
one is left out once, in the first epoch in which it is Included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from consensus.roster import Roster, RosterNode
from consensus.rows import compute_rows
from consensus.types import (
    SCORE_ONE,
    BlockNumber,
    Epoch,
    NodeClass,
    Score,
    SubnetId,
    SubnetNodeId,
    compute_epoch_position,
)
from keys.account import AccountKey
from subnet.account.registration import TENSOR
from tests.support.chain_rigs import (
    COLDKEYS,
    HOTKEY_FUNDS,
    ActiveSubnet,
    Chain,
    Rig,
    make_node,
    make_seed,
    read_head,
)

pytestmark = pytest.mark.timeout(900)

QUEUE, IDLE, INCLUDED = 3, 2, 2
"""Epochs that the chain keeps a node in the queue, as Idle and as Included, at least."""
MAX_EPOCHS = 20
ARGS_SIZES = (None, 230, 4096)
"""Bytes of args: none, what a subnet of 100 nodes needs, and the chain's bound."""
ROUNDS_TO_THE_END = 500
STUCK = SCORE_ONE - 9
"""Where a reputation ends that lost a tenth once: a tenth of the 9 missing units is 0."""


@dataclass(frozen=True)
class Walk:
    """A running subnet whose nodes do everything right, epoch by epoch."""

    rig: Rig
    chain: Chain
    subnet_id: SubnetId
    slot: int
    epoch_length: int
    hotkeys: dict[SubnetNodeId, AccountKey]

    @classmethod
    async def begin(cls, rig: Rig, chain: Chain, active: ActiveSubnet) -> Walk:
        subnet = await chain.fetch_subnet(active.subnet_id)
        assert subnet is not None and subnet.slot is not None
        # Without delegated stake the chain's weights are 0 and only proposers are paid.
        await rig.delegate(active.subnet_id, 50 * TENSOR, COLDKEYS[0])
        length = (await chain.fetch_info()).epoch_length
        walk = cls(rig, chain, active.subnet_id, subnet.slot, length, dict(active.hotkeys))
        # An epoch without a proposal would cost its validator reputation.
        await walk.agree(active.epoch)
        return walk

    async def join(self, coldkey: AccountKey) -> SubnetNodeId:
        """Register one more node; return its id."""
        hotkey = AccountKey(make_seed())
        await self.rig.fund(hotkey.account_id, HOTKEY_FUNDS)
        node_id = await self.rig.register_node(make_node(self.subnet_id, hotkey), coldkey)
        self.hotkeys[node_id] = hotkey
        return node_id

    async def begin_next_epoch(self) -> Epoch:
        """Go to the first block of the next epoch."""
        position = compute_epoch_position(
            await read_head(self.chain), slot=self.slot, epoch_length=self.epoch_length
        )
        await self.rig.advance(position.length - position.offset)
        return Epoch(position.epoch + 1)

    async def fetch_roster(self, epoch: Epoch) -> Roster:
        first = BlockNumber(epoch * self.epoch_length + self.slot)
        block = await self.chain.fetch_block(first)
        nodes = await self.chain.fetch_nodes(self.subnet_id, at_block=first)
        return Roster(epoch, first, block.block_hash, block.timestamp_s, nodes)

    async def agree(
        self,
        epoch: Epoch,
        *,
        scores: Mapping[SubnetNodeId, Score] | None = None,
        args: bytes | None = None,
        left_out: Collection[SubnetNodeId] = (),
    ) -> SubnetNodeId:
        """Propose the rows of the epoch before, let every other voter attest; return the proposer.

        ``scores`` None gives everybody the same.
        """
        scored = await self.fetch_roster(Epoch(epoch - 1))
        roster = await self.fetch_roster(epoch)
        working = {node.node_id for node in scored.with_class(NodeClass.INCLUDED)}
        rows = compute_rows(
            scored,
            roster,
            present=working,
            left_out=left_out,
            scores=dict.fromkeys(working, Score(SCORE_ONE // 10)) if scores is None else scores,
        )
        elected = await self.chain.fetch_elected_validator(self.subnet_id, epoch)
        assert elected is not None
        async with self._open(elected) as writer:
            await writer.propose(self.subnet_id, rows, args)
        for node_id in set(await self.list_voters(epoch)) - {elected}:
            async with self._open(node_id) as writer:
                await writer.attest(self.subnet_id)
        submission = await self.chain.fetch_submission(self.subnet_id, epoch)
        assert submission is not None
        assert dict(submission.scores) == dict(rows)
        assert submission.args == args
        assert submission.attested == submission.voters
        return elected

    async def fetch_class(self, node_id: SubnetNodeId) -> NodeClass:
        """Return a node's class; Registered for one that waits in the queue."""
        nodes: tuple[RosterNode, ...] = await self.chain.fetch_nodes(self.subnet_id)
        found = [node.node_class for node in nodes if node.node_id == node_id]
        return found[0] if found else NodeClass.REGISTERED

    async def list_voters(self, epoch: Epoch) -> list[SubnetNodeId]:
        roster = await self.fetch_roster(epoch)
        return [node.node_id for node in roster.with_class(NodeClass.VALIDATOR)]

    async def read_stakes(self) -> dict[SubnetNodeId, int]:
        return {
            node_id: await self.rig.read_stake(self.subnet_id, hotkey.account_id)
            for node_id, hotkey in self.hotkeys.items()
        }

    async def read_reputation(self, node_id: SubnetNodeId) -> int:
        return await self.rig.read_reputation(self.subnet_id, node_id)

    @asynccontextmanager
    async def _open(self, node_id: SubnetNodeId) -> AsyncIterator[Chain]:
        async with self.rig.open(self.hotkeys[node_id]) as writer:
            yield writer


@pytest.fixture
async def walk(rig: Rig, chain: Chain, active: ActiveSubnet) -> Walk:
    return await Walk.begin(rig, chain, active)


async def test_who_joins_later_is_paid_and_who_is_left_out_once_never(walk: Walk) -> None:
    """One walk for all that it shows: each of its 250 blocks takes the real runtime a second.

    Its proposals carry args, and one of them gives 0 to every node.
    """
    voters = sorted(walk.hotkeys)
    joiner, unlucky = await walk.join(COLDKEYS[4]), await walk.join(COLDKEYS[5])
    classes: list[NodeClass] = []
    proposer, is_zero_sum = None, False
    before, after = {}, await walk.read_stakes()
    registered = after[unlucky]
    for _ in range(MAX_EPOCHS):
        epoch = await walk.begin_next_epoch()
        classes.append(await walk.fetch_class(joiner))
        before, after = after, await walk.read_stakes()
        paid = {node_id for node_id in after if after[node_id] > before[node_id]}
        if is_zero_sum:
            # It pays the proposer, which is the chain's own reward, and costs no node anything.
            assert paid == {proposer}
            assert {await walk.read_reputation(node_id) for node_id in voters} == {SCORE_ONE}
        elif joiner in paid - {proposer}:
            break
        args = make_args(ARGS_SIZES[epoch % len(ARGS_SIZES)])
        is_first = classes.count(NodeClass.INCLUDED) == 1
        is_zero_sum = classes[-1] is NodeClass.INCLUDED and not is_first
        is_left_out = classes[-1] is NodeClass.INCLUDED and is_first
        proposer = await walk.agree(
            epoch,
            args=args,
            scores={} if is_zero_sum else None,
            left_out={unlucky} if is_left_out else (),
        )

    assert classes[-1] is NodeClass.VALIDATOR
    assert classes == sorted(classes)
    assert classes.count(NodeClass.REGISTERED) >= QUEUE
    assert classes.count(NodeClass.IDLE) == IDLE
    assert classes.count(NodeClass.INCLUDED) == INCLUDED
    assert await walk.read_reputation(joiner) == SCORE_ONE

    # The other one has been in as many proposals since as the first one needed.
    assert INCLUDED - 1 + classes.count(NodeClass.VALIDATOR) - 1 >= INCLUDED
    assert await walk.fetch_class(unlucky) is NodeClass.INCLUDED
    assert SCORE_ONE * 9 // 10 <= await walk.read_reputation(unlucky) < SCORE_ONE
    assert after[unlucky] == registered


def make_args(size: int | None) -> bytes | None:
    return None if size is None else bytes(255 - index % 256 for index in range(size))


@pytest.mark.parametrize("rig", ["ledger"], indirect=True)
async def test_a_reputation_below_one_ends_9_units_short_of_it(walk: Walk) -> None:
    """Why no epoch may leave an Included node out: there is no way back, however long it works."""
    unlucky = await walk.join(COLDKEYS[4])
    while await walk.fetch_class(unlucky) is not NodeClass.INCLUDED:
        await walk.agree(await walk.begin_next_epoch())
    await walk.agree(await walk.begin_next_epoch(), left_out={unlucky})
    for _ in range(ROUNDS_TO_THE_END):
        await walk.agree(await walk.begin_next_epoch())
    assert await walk.read_reputation(unlucky) == STUCK
    assert await walk.fetch_class(unlucky) is NodeClass.INCLUDED
