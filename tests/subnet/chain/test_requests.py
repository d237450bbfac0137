"""What a node asks the chain: every request is counted at a proxy before it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from consensus.types import Epoch, EpochPosition, Score, SubnetNodeId
from consensus.view import EpochStatus
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from subnet.account.earnings import fetch_earnings
from subnet.account.standing import fetch_standing
from subnet.chain.extrinsic_journal import ExtrinsicJournal, settle
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.author import Author
from subnet.epoch.observer import HeadHandled
from subnet.epoch.rosters import Rosters
from subnet.epoch.view_builder import ViewBuilder
from subnet.known_peers import KnownPeers
from subnet.network import fetch_subnet_on_chain
from subnet.operator.status_facts import StatusFacts
from tests.support.chain_rigs import OWNER, ActiveSubnet, WireRig, register_four, wait_for_election
from tests.support.fakes import FakeChain
from tests.support.node import make_context, make_journal, make_key
from tests.support.rpc_proxy import RpcProxy

LENGTH = 20
EPOCHS = 3
MAX_PER_BLOCK = 4
MAX_STANDING = 5
"""The head's hash, header and runtime, and two groups of items."""
MAX_EARNINGS = 13


class Scene:
    """A subnet of four on a development chain, and a client whose requests are counted."""

    def __init__(self, rig: WireRig, proxy: RpcProxy, active: ActiveSubnet) -> None:
        self.rig, self.proxy, self.active = rig, proxy, active
        self.node_id: SubnetNodeId = active.others[0]

    async def propose(self, epoch: Epoch) -> None:
        """Let the elected validator propose, over a connection of its own."""
        rows = [(node_id, Score(0)) for node_id in sorted(self.active.hotkeys)]
        async with self.rig.open() as reader:
            elected = await reader.fetch_elected_validator(self.active.subnet_id, epoch)
        assert elected is not None
        async with self.rig.open(self.active.hotkeys[elected]) as writer:
            await writer.propose(self.active.subnet_id, rows, None)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=b"e")
    async with DevChain.open(config) as devchain, WireRig.connect(devchain.url) as rig:
        proxy = RpcProxy(devchain.url)
        async with proxy.run():
            subnet_id, hotkeys = await register_four(rig, "requests")
            await rig.activate_subnet(subnet_id, OWNER)
            async with rig.open() as chain:
                epoch, elected = await wait_for_election(rig, chain, subnet_id)
            yield Scene(rig, proxy, ActiveSubnet(subnet_id, hotkeys, epoch, elected))


async def test_where_a_node_stands_is_read_in_two_groups_of_items(scene: Scene) -> None:
    async with SubstrateChain.open(scene.proxy.url) as chain:
        before = scene.proxy.requests.copy()
        standing = await fetch_standing(chain, scene.active.subnet_id, scene.node_id)
        asked = scene.proxy.requests - before
    assert standing.node.node_id == scene.node_id and standing.stake > 0
    assert asked["state_queryStorageAt"] == 2
    assert asked.total() <= MAX_STANDING, asked


async def test_what_an_epoch_brought_is_read_in_few_requests(scene: Scene) -> None:
    await scene.rig.advance(LENGTH)
    async with SubstrateChain.open(scene.proxy.url) as chain:
        before = scene.proxy.requests.copy()
        found = await fetch_earnings(chain, scene.active.subnet_id, scene.node_id, count=1)
        asked = scene.proxy.requests - before
    assert len(found.rows) == 1
    assert asked.total() <= MAX_EARNINGS, asked


class QuietNode:
    """The readers of one node as subnet/node/node.py runs them, and its attestation."""

    def __init__(self, chain: SubstrateChain, extrinsics: ExtrinsicJournal, scene: Scene) -> None:
        self.chain, self.extrinsics, self.scene = chain, extrinsics, scene
        self.handled = -1
        self.position: EpochPosition | None = None
        self.has_moved = asyncio.Event()
        self.num_attested = 0

    async def run(self, home: Path) -> None:
        scene, chain = self.scene, self.chain
        terms = (await fetch_subnet_on_chain(chain, scene.active.subnet_id)).terms
        journal = make_journal()
        rosters = Rosters(terms, reader=chain, journal=journal)
        context = make_context(
            FakeChain(()),
            scene.node_id,
            journal=journal,
            author=Author(terms, make_key(scene.node_id), scene.node_id),
            reader=chain,
            rosters=rosters,
            writer=chain,
        )
        views, known_peers = ViewBuilder(context), KnownPeers(chain, terms.subnet_id)
        facts = StatusFacts(
            home,
            subnet_id=terms.subnet_id,
            node_id=scene.node_id,
            schedule=terms.schedule,
            num_layers=1,
            unable=None,
        )
        followed, attested = None, None
        async with aclosing(chain.heads()) as heads:
            async for head in heads:
                position = await rosters.locate(head)
                assert position is not None
                await views.refresh(position)
                facts.note(HeadHandled(position, EpochStatus.ACTIVE, (), None))
                submission = views.get_submission(position.epoch)
                if submission is not None and attested != position.epoch:
                    attested = position.epoch
                    if scene.node_id not in submission.attested:
                        await chain.attest(terms.subnet_id)
                        self.num_attested += 1
                roster = rosters.get_newest_roster()
                news = (position.epoch, None if roster is None else roster.epoch)
                if news != followed:
                    followed = news
                    await known_peers.follow(roster)
                    await settle(chain, self.extrinsics)
                    await facts.follow(chain)
                self.handled, self.position = head.number, position
                self.has_moved.set()


async def test_a_quiet_node_asks_at_most_four_things_a_block(scene: Scene, tmp_path: Path) -> None:
    quiet: list[Counter[str]] = []
    with ExtrinsicJournal.open(tmp_path / "extrinsics.sqlite") as extrinsics:
        async with SubstrateChain.open(
            scene.proxy.url,
            signer=scene.active.hotkeys[scene.node_id],
            log=extrinsics,
            block_time_s=60.0,
        ) as chain:
            node = QuietNode(chain, extrinsics, scene)

            async def pass_block() -> None:
                node.has_moved.clear()
                await scene.rig.advance(1)
                await node.has_moved.wait()

            async def pass_epoch() -> None:
                """Pass from the last block of an epoch to that of the next one."""
                await pass_block()
                assert node.position is not None
                await scene.propose(node.position.epoch)
                while node.position.offset != LENGTH - 1:
                    await pass_block()

            async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
                running = tasks.create_task(node.run(tmp_path))
                await node.has_moved.wait()
                while node.position is None or node.position.offset != LENGTH - 1:
                    await pass_block()
                # The first one opens the sender's connection, and some elect the node itself.
                await pass_epoch()
                while len(quiet) < EPOCHS:
                    before, attested = scene.proxy.requests.copy(), node.num_attested
                    await pass_epoch()
                    if node.num_attested > attested:
                        quiet.append(scene.proxy.requests - before)
                running.cancel()
    asked = sum(quiet, Counter())
    assert asked.total() / (EPOCHS * LENGTH) <= MAX_PER_BLOCK, asked
