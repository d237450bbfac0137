"""One simulated node: the production loop, journal and admission between simulated parts.

Its journal and its keys survive its deaths; its replica does not.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from consensus.protocol_params import MINIMAL
from consensus.records import RecordKind
from consensus.roster import RosterNode, compute_network_id
from consensus.rows import ScoreRows
from consensus.types import Epoch, Role, SubnetNodeId
from keys.envelope import Envelope
from keys.peer import PeerKey
from mesh.errors import RecordRefused
from subnet.epoch.author import Author
from subnet.epoch.context import NodeContext
from subnet.epoch.interfaces import ReceiptSink
from subnet.epoch.loop import EpochLoop
from subnet.epoch.observer import (
    AttestationRefused,
    DutyDone,
    DutyFailed,
    DutyMissed,
    Elected,
    EpochScored,
    EpochSettled,
    ExtrinsicLanded,
    HeadHandled,
    HeadSeen,
    HosterProbed,
    NodeEvent,
    ParticipationChanged,
    ProposalScored,
    RecordDropped,
    RecordSeen,
    Unavailable,
)
from subnet.epoch.record_policy import ConsensusRecordPolicy
from subnet.epoch.rosters import Rosters
from subnet.epoch.terms import SubnetTerms
from subnet.errors import JournalFailed
from subnet.journal.journal import Journal
from subnet.simulation.byzantine import (
    Behaviour,
    EvilReader,
    EvilStore,
    EvilWriter,
    Knowledge,
    choose_distortion,
    choose_tampering,
)
from subnet.simulation.chain import BLOCK_TIME_S, SUBNET_ID, NodeAccount, SimChain, SimEndpoint
from subnet.simulation.crash import Guard, Switch, make_runner
from subnet.simulation.disk import SimDisk
from subnet.simulation.inference import SHAPE, FakeInference, FakeModel
from subnet.simulation.inline_runner import run_inline
from subnet.simulation.invariants import Invariants
from subnet.simulation.network import SimNetwork, SimPeerRecords, SimRecordStore
from subnet.simulation.scenario import NodeSpec
from subnet.simulation.trace import RunTrace
from subnet.simulation.windows import WINDOWS

MODEL_LOAD_S = 9.0
"""What the journal holds must not wait for the model: it takes longer than a block."""


@dataclass
class RunContext:
    """What all nodes of one run share."""

    chain: SimChain
    network: SimNetwork
    model: FakeModel
    invariants: Invariants
    trace: RunTrace
    get_wall_time_s: Callable[[], float]
    spawn: Callable[[Any], None]
    effects: Counter[str]
    """What faults and lies did, by name."""
    peers: dict[int, Any]
    authors: dict[bytes, int]
    liars: frozenset[int]


def make_key(node_id: int) -> PeerKey:
    return PeerKey(bytes([node_id]) * 32)


def make_account(node_id: int, owner: int | None = None) -> NodeAccount:
    """Return the chain's names of a node; the last byte of a hotkey is the node's id.

    The last byte of a coldkey is ``owner``, the node itself by default.
    """
    peer_id = make_key(node_id).peer_id
    coldkey = bytes([node_id if owner is None else owner])
    return NodeAccount(
        peer_id, b"coldkey".ljust(19) + coldkey, b"hotkey".ljust(19) + bytes([node_id])
    )


def make_terms(chain: SimChain) -> SubnetTerms:
    network_id = compute_network_id(chain.get_header(0).block_hash, SUBNET_ID, b"manifest" * 4)
    return SubnetTerms(SUBNET_ID, network_id, chain.epoch_length, 1000 * BLOCK_TIME_S, MINIMAL)


class SimNode:
    """A node whose process can be killed and started again."""

    def __init__(self, spec: NodeSpec, context: RunContext, *, seed: int) -> None:
        self.spec = spec
        self.node_id = spec.node_id
        self.key = make_key(spec.node_id)
        self.random = Random(f"node/{seed}/{spec.node_id}")
        self.name = f"node {spec.node_id}"
        self.context = context
        self.terms = make_terms(context.chain)
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.disk: SimDisk | None = None
        """Under the journal of a node whose disk may fail; the others' are in memory."""
        self.endpoint = SimEndpoint(
            context.chain, hotkey=make_account(spec.node_id).hotkey, random=self.random
        )
        self.replica = context.network.replicas[spec.node_id]
        # Drawn before anything else, so that it is the same in every life.
        self.victim = self.random.choice([n for n in (1, 2, 3) if n != self.node_id])
        self.replica.tamper = choose_tampering(spec.behaviours, victim=context.peers[self.victim])
        self.replica.on_stored = lambda old, new: (
            context.invariants.stored(spec.node_id, old, new) if spec.is_honest else None
        )
        self.store = SimRecordStore(context.network, spec.node_id, context.authors)
        nodes = {peer: node_id for node_id, peer in context.peers.items()}
        self.peers = SimPeerRecords(context.network, spec.node_id, nodes)
        distort = choose_distortion(spec.behaviours, self.random.randrange(1 << 32))
        self.inference = FakeInference(context.model, spec.layers, distort=distort)
        self.switch = Switch()
        self.journal: Journal | None = None
        self.receipts: ReceiptSink | None = None
        """Where a test wants to have what each epoch's scores are made from."""
        self.program: EpochLoop | None = None
        """The loop of its present life, or of the last one."""
        self.judged: dict[Epoch, ScoreRows] = {}
        """Rows by scored epoch, as this node computed them last for a proposal."""
        self.shown_lists: set[Epoch] = set()
        self.skew_s = 0.0
        self.lives = 0
        self.last_words = ""
        self.next_fire_at: int | None = None
        self.next_rest_s = 0.0
        self.up_by_s = math.inf
        """When a dead process is started at the latest, in virtual time."""

    async def live(self) -> None:
        """Run until cancelled; die where the switch says, and come back after a rest."""
        while True:
            self.switch = Switch(fire_at=self.next_fire_at)
            self.next_fire_at = None
            self.lives += 1
            try:
                await self._run_once(self.switch)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                if self._is_disk_failure(error):
                    self.switch.last = "by a write that failed"
                elif not self.switch.is_dead:
                    if self.spec.is_honest:
                        self.context.invariants.died(self.node_id, _first_leaf(error))
                    raise
            finally:
                self.replica.stop()
            self.last_words = self.switch.last
            self.context.trace.add(self.name, f"killed {self.last_words}")
            left_s = self.up_by_s - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, min(self.next_rest_s, left_s)))

    def check_attestation(self, block: int) -> None:
        """Compare the proposal in the state of a block with the rows that this node computed."""
        chain, invariants = self.context.chain, self.context.invariants
        epoch = Epoch((block - chain.slot) // chain.epoch_length)
        submission, before = chain.read_submission(epoch, at_block=block), Epoch(epoch - 1)
        invariants.attesting(self.node_id, epoch, self.judged.get(before), submission)

    def close(self) -> None:
        self.endpoint.close()
        self.connection.close()

    def _is_disk_failure(self, error: BaseException) -> bool:
        """Whether the process ended as it must: it signs nothing after a write that failed."""
        has_failed = self.disk is not None and self.disk.has_failed
        return has_failed and isinstance(_first_leaf(error), JournalFailed)

    async def _run_once(self, switch: Switch) -> None:
        if self.disk is None:
            await self._run_on(self.connection, switch)
            return
        with self.disk.open(switch) as (self.connection, faulty):
            await self._run_on(faulty, switch)

    async def _run_on(self, connection: Any, switch: Switch) -> None:
        journal = Journal.load(
            connection, owner=self.key.peer_id.public_key, run=make_runner(switch)
        )
        before = None if self.journal is None else self.journal.own_records
        self.context.invariants.restarted(self.node_id, before, journal)
        self.journal = journal
        rosters = Rosters(
            self.terms, reader=Guard(self.endpoint, switch), journal=journal, shape=SHAPE
        )
        self.replica.start(
            ConsensusRecordPolicy(lambda: rosters.table, admit_heartbeat=_refuse_heartbeat)
        )
        self.replica.lookup = self._look_up
        self.program = EpochLoop(self._build_context(switch, journal, rosters))
        await self.program.run()

    def _build_context(self, switch: Switch, journal: Journal, rosters: Rosters) -> NodeContext:
        writer: Any = _WatchedWriter(self)
        store: Any = self.store
        reader: Any = self.endpoint
        if not self.spec.is_honest:
            does, context = self.spec.behaviours, self.context
            knowledge = self._know()
            store = EvilStore(self.store, knowledge, does, self.random)
            writer = EvilWriter(self.endpoint, self.node_id, does, self.random)
            if Behaviour.ATTEST_ALLIES in does:
                allies = context.liars - {self.node_id}
                reader = EvilReader(self.endpoint, allies, context.spawn, knowledge.note)
        inference = Guard(self.inference, switch)
        started_s = asyncio.get_running_loop().time() if self.lives > 1 else -MODEL_LOAD_S

        def get_inference() -> Any:
            is_loaded = asyncio.get_running_loop().time() >= started_s + MODEL_LOAD_S
            return inference if is_loaded else None

        return NodeContext(
            author=Author(self.terms, self.key, SubnetNodeId(self.spec.node_id)),
            role=self.spec.role,
            shape=SHAPE,
            journal=journal,
            rosters=rosters,
            store=Guard(store, switch),
            peers=Guard(self.peers, switch),
            reader=Guard(reader, switch),
            writer=Guard(writer, switch),
            run=run_inline,
            observe=self._observe,
            get_inference=get_inference,
            get_auditor=get_inference if self.spec.role is Role.VALIDATOR else lambda: None,
            list_failed_probes=lambda _roster: frozenset(),
            get_wall_time_s=lambda: self.context.get_wall_time_s() + self.skew_s,
            receipts=self.receipts,
        )

    def _look_up(self, name: bytes) -> bytes | None:
        """Answer a peer that asks for a record by its hash."""
        assert self.journal is not None
        envelope = self.journal.find_by_name(name)
        is_hidden = (
            envelope is not None
            and envelope.kind == RecordKind.NAMED_LIST
            and self._hides_list(Epoch(envelope.epoch))
        )
        return None if envelope is None or is_hidden else envelope.to_bytes()

    def _hides_list(self, epoch: Epoch) -> bool:
        does = self.spec.behaviours
        is_held_back = Behaviour.EDGE_LIST in does and epoch not in self.shown_lists
        return Behaviour.HIDE_LIST in does or is_held_back

    def _know(self) -> Knowledge:
        context = self.context
        windows = WINDOWS[context.chain.epoch_length]

        def compute_delay_s(epoch: Epoch, offset: int) -> float:
            block = context.chain.slot + epoch * context.chain.epoch_length + offset
            return context.chain.get_time_s(block) - context.get_wall_time_s()

        def find_own(kind: RecordKind, epoch: Epoch) -> Envelope:
            assert self.journal is not None
            return self.journal.own_records[kind, epoch].envelope

        def list_nodes(epoch: Epoch) -> Sequence[RosterNode]:
            assert self.journal is not None
            roster = self.journal.rosters.get(epoch)
            return () if roster is None else roster.nodes

        def chain_hash(epoch: Epoch, offset: int) -> bytes:
            block = context.chain.slot + epoch * context.chain.epoch_length + offset
            return context.chain.get_header(block).block_hash

        return Knowledge(
            key=self.key,
            windows=windows,
            victim=context.peers[self.victim],
            allies=frozenset(context.peers[node_id] for node_id in context.liars),
            list_nodes=list_nodes,
            peers=context.peers,
            compute_delay_s=compute_delay_s,
            find_own=find_own,
            find_draw=lambda epoch: chain_hash(epoch, windows.commit_end),
            show_list=self.shown_lists.add,
            note=lambda effect: context.effects.update([effect]),
            note_copy=lambda epoch: context.invariants.copied(self.node_id, epoch),
            spawn=context.spawn,
        )

    def _observe(self, event: NodeEvent) -> None:
        trace = self.context.trace
        if isinstance(event, HeadSeen):
            return  # HeadHandled of the same head follows.
        if isinstance(event, (RecordSeen, HeadHandled)):
            # By far the most; and what was seen decides what is computed, which is traced.
            if trace.is_watched:
                trace.note(self.name, _describe(event))
        else:
            trace.add(self.name, _describe(event))
        if isinstance(event, ProposalScored) and self.spec.is_honest and not self.switch.is_dead:
            self.judged[event.report.epoch] = event.report.rows
            self.context.invariants.scored(self.node_id, event.report, event.list_hash)


class _WatchedWriter:
    """An honest node's writer; what it attests is compared with what it computed."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    async def propose(self, subnet_id: Any, scores: Any, args: Any) -> Any:
        return await self._node.endpoint.propose(subnet_id, scores, args)

    async def attest(self, subnet_id: Any) -> Any:
        # Both when it leaves, because a receipt may be lost, and when it has landed.
        self._node.check_attestation(self._node.context.chain.best.number)
        receipt = await self._node.endpoint.attest(subnet_id)
        self._node.check_attestation(receipt.block_number)
        return receipt


def _describe(event: NodeEvent) -> str:
    match event:
        case HeadSeen(head):
            return f"sees block {head.number}"
        case RecordSeen(sighting):
            record = sighting.envelope
            kind = RecordKind(record.kind).name
            digest = record.record_hash[:4].hex()
            return f"sees {kind} {record.epoch} of {record.node_id} at {sighting.seen_at}: {digest}"
        case HeadHandled(position, status):
            return f"handles {position.epoch}+{position.offset}: {status.name}"
        case Elected(epoch, unable):
            return f"is elected in {epoch}: {unable or 'able'}"
        case ParticipationChanged(epoch, status):
            return f"takes part in {epoch}: {status.name}"
        case RecordDropped(kind, node_id, error):
            return f"drops {kind.name} of {node_id}: {error}"
        case DutyDone(duty):
            return f"did {duty}"
        case DutyMissed(duty, epoch, reason):
            return f"missed {duty} of {epoch}: {reason}"
        case DutyFailed(duty, reason):
            return f"postpones {duty}: {reason}"
        case ExtrinsicLanded(extrinsic, epoch, block):
            return f"{extrinsic.value} of {epoch} landed in {block}"
        case AttestationRefused(epoch, detail):
            return f"refuses the proposal of {epoch}: {detail}"
        case EpochScored(report):
            rows = " ".join(f"{node_id}:{score}" for node_id, score in report.rows)
            return f"scores {report.epoch}: {rows}"
        case ProposalScored(report, list_hash):
            rows = " ".join(f"{node_id}:{score}" for node_id, score in report.rows)
            return f"judges {report.epoch} by {list_hash[:4].hex()}: {rows}"
        case EpochSettled(epoch, elected, submission):
            attested = None if submission is None else sorted(submission.attested)
            return f"settles {epoch}: elected {elected}, attested {attested}"
        case HosterProbed(epoch, node_id, result):
            return f"probed {node_id} in {epoch}: {result}"
        case Unavailable(what, detail):
            return f"{what} unavailable: {detail}"


def _refuse_heartbeat(_value: bytes, _expires_at: float) -> bytes:
    raise RecordRefused("kind", "heartbeats are not simulated")


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
