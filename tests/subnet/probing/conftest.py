"""A swarm of the shipped model in memory, and a validator that probes it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace

import pytest

from consensus.protocol_params import MAINNET
from consensus.types import BlockNumber, Epoch, EpochPosition, LayerRange
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.client.route_session import ClientTimeouts
from mesh.inference.engine import EngineLimits
from mesh.model.config import load_config
from mesh.p2p.config import HostConfig
from subnet.probing import prober as prober_module
from subnet.probing.book import ProbeBook
from subnet.probing.prober import ProbeContext, Prober, ProbeTarget
from subnet.probing.prompts import make_prompter
from tests.mesh.client.conftest import NETWORK_ID, HeartbeatsOnly, Swarm

FOLDER = shipped_model_path()
CONFIG = load_config(FOLDER)
LENGTH = 20


@dataclass
class ProbedSwarm:
    """Hosters by node id, in the order in which they were added, and one prober.

    ``keys`` are those under which attempts were made.
    """

    swarm: Swarm = field(default_factory=lambda: Swarm(FOLDER))
    book: ProbeBook = field(
        default_factory=lambda: ProbeBook(None, network_id=NETWORK_ID, params=MAINNET)
    )
    own: PeerKey = field(default_factory=lambda: PeerKey(b"\xee" * 32))
    keys: list = field(default_factory=list)
    events: list = field(default_factory=list)
    committed: dict = field(default_factory=dict)
    is_validator: bool = True
    running: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def add(self, start, end, *, committed=None, **options):
        hoster = await self.swarm.add_hoster(start, end, **options)
        node_id = len(self.swarm.hosters)
        layers = LayerRange(*(committed or (start, end)))
        self.committed[node_id] = ProbeTarget(node_id, hoster.key.peer_id, layers)
        return hoster

    async def add_liar(self, start, end, serve, *, method):
        """A hoster that announces itself as others do, and whose sessions ``serve`` answers."""
        hoster = await self.add(start, end)
        host = hoster.announcer._host
        host.serve_stream(method, serve)
        return hoster

    @contextlib.asynccontextmanager
    async def open_client(self):
        key = PeerKey.generate()
        self.keys.append(key)
        self.running += 1
        self.idle.clear()
        try:
            config = HostConfig(
                key=key, network_id=NETWORK_ID, record_policy=HeartbeatsOnly(), client_mode=True
            )
            async with self.swarm.network.open(config) as host:
                yield host
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def list_servers(self):
        alive = [hoster for hoster in self.swarm.hosters if hoster is not None]
        known = {}
        for hoster in alive:
            known |= {server.peer_id: server for server in hoster.directory.list_servers()}
        return tuple(known.values())

    def make_prober(self, **changes):
        context = ProbeContext(
            key=self.own,
            network_id=NETWORK_ID,
            params=MAINNET,
            model=CONFIG,
            block_time_s=0.0,
            book=self.book,
            make_prompt=make_prompter(FOLDER, CONFIG),
            list_targets=lambda: self.committed,
            is_validator=lambda: self.is_validator,
            list_servers=self.list_servers,
            open_client=self.open_client,
            observe=self.events.append,
        )
        timeouts = ClientTimeouts(open_s=6.0, token_s=10.0, probe_s=3.0)
        return Prober(replace(context, **changes), timeouts=timeouts, seconds_per_probe=0.0)

    async def attempt(self, node_id, *, avoid=(), **changes):
        return await self.make_prober(**changes).attempt(self.committed[node_id], avoid=avoid)

    async def run_epoch(self, epoch, **changes):
        """Run a prober through one epoch."""
        prober = self.make_prober(**changes)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(prober.run())
            await self._settle()
            first_block = BlockNumber(LENGTH * epoch)
            for offset in range(LENGTH):
                prober.note_position(EpochPosition(Epoch(epoch), offset, LENGTH, first_block))
                await self._settle()
            running.cancel()

    async def _settle(self):
        """Let every task that can go on do so, and attempts end."""
        for _ in range(30):
            await asyncio.sleep(0)
            if self.running:
                await self.idle.wait()


@pytest.fixture
async def probed(monkeypatch):
    monkeypatch.setattr(prober_module, "BUSY_PAUSES_S", (0.0, 0.0))
    probed = ProbedSwarm()
    yield probed
    for hoster in probed.swarm.hosters:
        await hoster.stop()


@pytest.fixture
def full():
    """The limits of a hoster that takes no session."""
    return EngineLimits(max_sessions=0)
