"""Who is known and who is on the roster come from the state of one block."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from consensus.protocol_params import MAINNET
from consensus.types import SubnetId
from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from keys.account import AccountKey
from keys.peer import PeerId
from subnet.account import registration
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.journal.journal import Journal
from subnet.known_peers import KnownPeers, read_known_peers
from subnet.simulation.inline_runner import run_inline
from tests.support.chain_rigs import BOOTNODE, COLDKEYS, OWNER, make_node, make_seed, make_subnet

EPOCH_LENGTH = 20


@dataclass
class Rig:
    devchain: DevChain
    chain: SubstrateChain
    subnet_id: SubnetId
    peers: list[PeerId]

    async def register(self) -> PeerId:
        wanted = make_node(self.subnet_id, AccountKey(make_seed()))
        coldkey = COLDKEYS[len(self.peers)]
        await registration.register_node(self.chain, wanted, coldkey=coldkey)
        self.peers.append(wanted.peer_id)
        return wanted.peer_id

    async def turn_epoch(self) -> None:
        """Build until the first block of the subnet's next epoch is final."""
        rosters = self.make_rosters()
        position = await rosters.locate(await self.chain.fetch_head())
        assert position is not None
        first = position.first_block + EPOCH_LENGTH
        while await self.chain.fetch_finalised_number() < first:
            self.devchain.build(1)

    def make_rosters(self) -> Rosters:
        disk = sqlite3.connect(":memory:", isolation_level=None)
        journal = Journal.load(disk, owner=b"owner", run=run_inline)
        terms = SubnetTerms(self.subnet_id, bytes(32), EPOCH_LENGTH, 6_000, MAINNET)
        return Rosters(terms, reader=self.chain, journal=journal)

    async def read(self) -> tuple[Rosters, KnownPeers]:
        """Read what a process reads when it starts."""
        rosters = self.make_rosters()
        known_peers = KnownPeers(self.chain, self.subnet_id)
        await read_known_peers(self.chain, rosters, known_peers)
        return rosters, known_peers


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=b"members")
    async with DevChain.open(config) as devchain, SubstrateChain.open(devchain.url) as chain:
        outcome = await registration.register_subnet(chain, make_subnet("mesh"), owner=OWNER)
        rig = Rig(devchain, chain, outcome.subnet_id, [])
        for _ in range(3):
            await rig.register()
        await registration.activate_subnet(chain, subnet_id=outcome.subnet_id, owner=OWNER)
        await rig.turn_epoch()
        yield rig


async def test_known_peers_and_roster_are_read_from_one_block(rig: Rig) -> None:
    rosters, known_peers = await rig.read()
    roster = rosters.get_newest_roster()
    assert roster is not None
    assert known_peers.block_hash == roster.block_hash
    assert known_peers.list_nodes() == tuple(sorted(rig.peers))
    assert {node.peer_id for node in roster.nodes} == set(known_peers.list_nodes())


async def test_who_registers_within_an_epoch_is_known_from_the_next_snapshot_on(rig: Rig) -> None:
    rosters, known_peers = await rig.read()
    newcomer = await rig.register()
    await read_known_peers(rig.chain, rosters, known_peers)
    assert not known_peers.is_known(newcomer)
    await rig.turn_epoch()
    await read_known_peers(rig.chain, rosters, known_peers)
    roster = rosters.get_newest_roster()
    assert roster is not None
    assert known_peers.is_node(newcomer)
    assert known_peers.block_hash == roster.block_hash


async def test_a_process_that_starts_knows_who_registered_since_the_epochs_first_block(
    rig: Rig,
) -> None:
    newcomer = await rig.register()
    rosters, known_peers = await rig.read()
    roster = rosters.get_newest_roster()
    assert roster is not None
    assert known_peers.is_node(newcomer)
    assert known_peers.block_hash == (await rig.chain.fetch_head()).block_hash != roster.block_hash
    await read_known_peers(rig.chain, rosters, known_peers)
    assert known_peers.is_node(newcomer), "the snapshot went back to an older block"
    await rig.turn_epoch()
    await read_known_peers(rig.chain, rosters, known_peers)
    roster = rosters.get_newest_roster()
    assert roster is not None
    assert known_peers.block_hash == roster.block_hash


async def test_a_bootnode_of_the_subnet_is_known_and_is_no_node(rig: Rig) -> None:
    _, known_peers = await rig.read()
    assert known_peers.is_known(BOOTNODE)
    assert not known_peers.is_node(BOOTNODE)


async def test_known_peers_are_read_once_for_each_snapshot(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rosters, known_peers = await rig.read()

    async def refuse(*_arguments: object) -> None:
        raise AssertionError("the snapshot was read before")

    monkeypatch.setattr(rig.chain, "query", refuse)
    await known_peers.follow(rosters.get_newest_roster())
