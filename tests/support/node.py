"""One node of the core in the fake world: journal in memory, loop, what it told its observer."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from consensus.challenge import ModelShape
from consensus.roster import RosterNode, compute_network_id
from consensus.types import Epoch, LayerRange, NodeClass, Role, SubnetNodeId
from keys.peer import PeerId, PeerKey
from mesh.errors import PeerUnreachable, RecordRefused
from subnet.epoch.author import Author
from subnet.epoch.context import NodeContext
from subnet.epoch.interfaces import PeerRecords, ReceiptSink, RecordStore
from subnet.epoch.loop import EpochLoop
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.journal.journal import Journal
from subnet.simulation.inline_runner import run_inline
from subnet.thread_runner import Runner
from tests.support.fakes import (
    GENESIS,
    PARAMS,
    SUBNET_ID,
    FakeChain,
    FakeInference,
    FakeNetwork,
    FakeReader,
    FakeRecordStore,
    FakeWriter,
)

SHAPE = ModelShape(num_layers=4, hidden_size=32, vocab_size=50)
NETWORK_ID = compute_network_id(GENESIS, SUBNET_ID, b"m" * 32)
QUIET_ROUNDS = 60
Event = TypeVar("Event")


def make_key(node_id: int) -> PeerKey:
    return PeerKey(bytes([node_id]) * 32)


def make_roster_node(node_id: int, node_class: NodeClass = NodeClass.VALIDATOR) -> RosterNode:
    cold, hot = bytes([node_id]) * 20, bytes([128 + node_id]) * 20
    peer_id = make_key(node_id).peer_id
    return RosterNode(SubnetNodeId(node_id), peer_id, cold, hot, node_class, Epoch(0))


def make_terms(chain: FakeChain) -> SubnetTerms:
    return SubnetTerms(SUBNET_ID, NETWORK_ID, chain.epoch_length, chain.block_time_s * 1000, PARAMS)


def make_journal() -> Journal:
    disk = sqlite3.connect(":memory:", isolation_level=None)
    return Journal.load(disk, owner=b"owner", run=run_inline)


def make_context(
    chain: FakeChain, node_id: int, *, journal: Journal, **changes: Any
) -> NodeContext:
    """Build what the loop's classes share; a test names only what it looks at."""
    terms, reader = make_terms(chain), FakeReader(chain)
    parts: dict[str, Any] = {
        "author": Author(terms, make_key(node_id), SubnetNodeId(node_id)),
        "role": Role.HOSTER,
        "shape": SHAPE,
        "journal": journal,
        "rosters": changes.get("rosters") or Rosters(terms, reader=reader, journal=journal),
        "store": None,
        "peers": NoPeers(),
        "reader": reader,
        "writer": None,
        "run": run_inline,
        "observe": lambda event: None,
        "get_inference": lambda: None,
        "get_auditor": lambda: None,
        "list_failed_probes": lambda roster: frozenset(),
        "get_wall_time_s": lambda: 0.0,
    }
    return NodeContext(**parts | changes)


class NoPeers:
    """Satisfies PeerRecords: no peer answers."""

    async def fetch_by_hash(
        self, peer: PeerId, hashes: Sequence[bytes], *, timeout_s: float
    ) -> Sequence[bytes]:
        raise PeerUnreachable(peer, "no peer is here")


def refuse_heartbeat(value: bytes, expires_at: float) -> bytes:
    raise RecordRefused("wrong_kind")


class FakeNode:
    """A node whose process can be killed and started again; its journal is the disk."""

    def __init__(
        self,
        node_id: int,
        chain: FakeChain,
        network: FakeNetwork,
        *,
        role: Role = Role.HOSTER,
        layers: LayerRange | None = None,
        has_hotkey: bool = True,
    ) -> None:
        self.node_id = SubnetNodeId(node_id)
        self.role = role
        self.chain = chain
        self.network = network
        self.key = make_key(node_id)
        self.disk = sqlite3.connect(":memory:", isolation_level=None)
        self.reader = FakeReader(chain)
        self.writer = FakeWriter(chain, node_id) if has_hotkey else None
        self.inference = FakeInference(layers or LayerRange(0, SHAPE.num_layers), seed=node_id)
        self.events: list[Any] = []
        self.wall_offset_s = 0
        self.run_journal: Runner = run_inline
        self.wrap_store: Callable[[RecordStore], RecordStore] = lambda store: store
        self.is_paid = True
        self.auditor: FakeInference | None = None
        self.peers: PeerRecords = NoPeers()
        self.receipts: ReceiptSink | None = None
        if role is Role.VALIDATOR:
            self.auditor = FakeInference(LayerRange(0, SHAPE.num_layers), seed=node_id)

    def load_journal(self) -> Journal:
        return Journal.load(self.disk, owner=self.key.peer_id.public_key, run=self.run_journal)

    def list_events(self, event_type: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, event_type)]

    def build(self) -> EpochLoop:
        """Build the production loop, as a process does when it starts."""
        terms = make_terms(self.chain)
        reader = self.reader
        self.journal = self.load_journal()
        self.rosters = Rosters(terms, reader=reader, journal=self.journal, shape=SHAPE)
        policy = ConsensusRecordPolicy(lambda: self.rosters.table, admit_heartbeat=refuse_heartbeat)
        self.context = make_context(
            self.chain,
            self.node_id,
            role=self.role,
            journal=self.journal,
            rosters=self.rosters,
            store=self.wrap_store(FakeRecordStore(self.network, policy)),
            reader=reader,
            writer=self.writer,
            observe=self.events.append,
            get_inference=lambda: self.inference,
            get_auditor=lambda: self.auditor,
            peers=self.peers,
            get_wall_time_s=lambda: (
                self.chain.get_block(self.chain.height).timestamp_s + self.wall_offset_s
            ),
            is_paid=self.is_paid,
            receipts=self.receipts,
        )
        self.loop = EpochLoop(self.context)
        return self.loop


@asynccontextmanager
async def run_nodes(*nodes: FakeNode) -> AsyncIterator[None]:
    """Run the nodes' loops; an unexpected error of one ends the test."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.build().run()) for node in nodes]
        await let_settle()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def let_settle() -> None:
    """Let every task run until it waits for the world; the fakes answer at once."""
    for _ in range(QUIET_ROUNDS):
        await asyncio.sleep(0)


async def advance(chain: FakeChain, blocks: int = 1) -> None:
    """Make blocks one by one, and let every node finish with each."""
    for _ in range(blocks):
        chain.advance()
        await let_settle()


async def advance_to(chain: FakeChain, epoch: int, offset: int) -> None:
    """Make blocks until the head stands at this offset of the epoch."""
    target = chain.slot + epoch * chain.epoch_length + offset
    assert target >= chain.height
    await advance(chain, target - chain.height)
