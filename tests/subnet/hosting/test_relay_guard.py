"""When a challenge is open: from the first block that decides it until REVEAL begins."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from consensus.challenge import ModelShape, compute_layer_input, compute_seed
from mesh.inference.challenge_guard import ChallengeGuard
from subnet.epoch.rosters import Rosters
from subnet.errors import ChainUnavailable
from subnet.hosting.relay_guard import RelayGuard
from tests.support.fakes import PARAMS, FakeChain, FakeReader
from tests.support.node import NETWORK_ID, make_journal, make_roster_node, make_terms

SLOT = 3
SHAPE = ModelShape(num_layers=4, hidden_size=192, vocab_size=50)


class Rig:
    """A hoster's guard on a chain that advances by hand."""

    def __init__(self):
        self.chain = FakeChain((make_roster_node(1),), slot=SLOT, height=SLOT)
        self.reader = FakeReader(self.chain)
        self.terms = make_terms(self.chain)
        self.rosters = Rosters(self.terms, reader=self.reader, journal=make_journal())
        self.guard = ChallengeGuard()
        self.relay_guard = RelayGuard(
            self.terms, SHAPE, reader=self.reader, rosters=self.rosters, guard=self.guard
        )

    async def see(self, offset, *, epoch=0, head=None):
        """Follow the head at an offset, as the epoch loop does."""
        self.chain.height = SLOT + 20 * epoch + offset
        head = head or self.chain.get_block(self.chain.height)
        await self.rosters.locate(head)
        await self.relay_guard.follow(head)

    def is_refused(self, epoch, *, block_hash=None):
        first = self.chain.get_block(SLOT + 20 * epoch)
        seed = compute_seed(NETWORK_ID, epoch, first.number, block_hash or first.block_hash)
        rows = compute_layer_input(seed, 2, SHAPE, PARAMS)
        suspicion = self.guard.suspect(2, torch.from_numpy(rows))
        return suspicion is not None and bool(suspicion)


@pytest.mark.parametrize("offset", range(20))
async def test_a_challenge_is_open_from_its_first_block_until_reveal(offset):
    rig = Rig()
    await rig.see(offset)
    assert rig.is_refused(0) == (offset < rig.terms.schedule.reveal_start)


async def test_a_challenge_closes_when_reveal_begins_and_the_next_one_opens():
    rig = Rig()
    await rig.see(0)
    assert rig.is_refused(0)
    await rig.see(rig.terms.schedule.reveal_start)
    assert not rig.is_refused(0)
    await rig.see(0, epoch=1)
    assert rig.is_refused(1)
    assert not rig.is_refused(0)


async def test_the_final_seed_is_guarded_beside_that_of_a_lost_branch():
    """Before its first block is final a node may have seen another one."""
    rig = Rig()
    lost = replace(rig.chain.get_block(SLOT), block_hash=b"x" * 32)
    await rig.see(0, head=lost)
    assert rig.is_refused(0, block_hash=b"x" * 32)
    assert not rig.is_refused(0)
    await rig.see(3)
    assert rig.is_refused(0)
    position = await rig.rosters.locate(rig.chain.get_block(SLOT + 4))
    await rig.rosters.refresh(position)
    rig.chain.is_down = True
    # The seed of a final roster needs no question.
    await rig.relay_guard.follow(rig.chain.get_block(SLOT + 4))
    assert rig.is_refused(0)


async def test_a_silent_chain_is_asked_again_at_the_next_head():
    rig = Rig()
    await rig.rosters.locate(rig.chain.get_block(SLOT))
    rig.chain.is_down = True
    with pytest.raises(ChainUnavailable):
        await rig.relay_guard.follow(rig.chain.get_block(SLOT + 1))
    assert not rig.guard.is_open
    rig.chain.is_down = False
    await rig.see(2)
    assert rig.is_refused(0)


async def test_heads_wake_the_guard():
    rig = Rig()
    await rig.rosters.locate(rig.chain.get_block(SLOT))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(rig.relay_guard.run())
        rig.relay_guard.note_head(rig.chain.get_block(SLOT))
        async with asyncio.timeout(5):
            while not rig.guard.is_open:  # noqa: ASYNC110
                await asyncio.sleep(0)
        running.cancel()
    assert rig.is_refused(0)
