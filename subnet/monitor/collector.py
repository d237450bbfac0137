"""A node's monitor: collects from its journal, directory and chain what the page shows.

The node's events say what has changed; at most once in PERIOD_S it is put together and published.
No duty waits for any of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from consensus.challenge import ModelShape
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import Epoch, EpochPosition, SubnetNodeId
from keys.peer import PeerId
from mesh.routing.directory import Directory
from mesh.routing.info import NetworkInfo
from subnet.account.eligibility import Eligibility
from subnet.epoch.observer import (
    EpochScored,
    EpochSettled,
    HeadHandled,
    NodeEvent,
    RecordSeen,
)
from subnet.epoch.terms import SubnetTerms
from subnet.errors import ChainUnavailable
from subnet.journal.journal import Journal
from subnet.monitor.chain_view import ChainView
from subnet.monitor.documents import (
    ChainClock,
    EpochRecord,
    Head,
    History,
    Network,
    Observer,
)
from subnet.monitor.epochs import (
    EpochFound,
    digest_results,
    find_audited,
    make_clock,
    make_record,
)
from subnet.monitor.history import HistoryFile
from subnet.monitor.hub import Hub
from subnet.monitor.receipts import ReceiptReader
from subnet.monitor.swarm import ChainNode, Leavers, NewestResults, count_hosters, make_rows
from subnet.thread_runner import Runner
from subnet.version import SOFTWARE

PERIOD_S = 1.0
SETTLED_BEHIND = 3
"""Epochs whose record may still change: scored one later, settled and paid one more."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSources:
    """What a node's monitor reads."""

    terms: SubnetTerms
    shape: ModelShape
    network: NetworkInfo
    journal: Journal
    get_roster: Callable[[], Roster | None]
    directory: Directory
    chain: ChainView
    own: PeerId
    node_id: SubnetNodeId
    get_eligibility: Callable[[], Eligibility | None]
    data_dir: Path
    get_wall_time_s: Callable[[], float] = time.time


class NodeMonitor:
    """Satisfies MonitorData for the node that runs it."""

    def __init__(
        self, sources: NodeSources, history: HistoryFile, *, run: Runner, shows_addresses: bool
    ) -> None:
        """``run`` has the monitor's one thread, which alone uses ``history``."""
        self._sources = sources
        self._history = history
        self._run = run
        self._shows_addresses = shows_addresses
        self._receipts = ReceiptReader(sources.data_dir, run)
        self._leavers = Leavers()
        self._position: EpochPosition | None = None
        self._head_at = 0.0
        self._submissions: dict[int, Submission] = {}
        self._changed: set[int] = set()
        self._results: dict[int, object] = {}
        self._newest = NewestResults()
        self._has_news = asyncio.Event()
        self._has_head = asyncio.Event()
        self.hub = Hub()

    def observe(self, event: NodeEvent) -> None:
        """Note what has changed. Quick, and never raises."""
        match event:
            case HeadHandled(position):
                if self._position is None or self._position.epoch != position.epoch:
                    self._changed |= set(range(position.epoch - 1, position.epoch + 1))
                self._position = position
                self._head_at = self._sources.get_wall_time_s()
                self._has_head.set()
            case RecordSeen(sighting):
                envelope = sighting.envelope
                is_late_kind = envelope.kind == RecordKind.SCORE_REVEAL
                self._changed.add(envelope.epoch + is_late_kind)
            case EpochScored(report):
                self._changed.add(report.epoch)
            case EpochSettled(epoch):
                self._changed |= {epoch - 1, epoch}
            case _:
                return
        self._has_news.set()

    async def run(self) -> None:
        """Collect and publish until cancelled: a task of the node's group."""
        await self._run(self._fill_history, dict(self._sources.journal.reports))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_chain())
            while True:
                await self._refresh()
                try:
                    async with asyncio.timeout(PERIOD_S * 2):
                        await self._has_news.wait()
                except TimeoutError:
                    pass
                self._has_news.clear()
                await asyncio.sleep(PERIOD_S)

    async def read_epoch(self, epoch: int) -> EpochRecord | None:
        """Return an epoch from the journal while it holds its roster, else from the history."""
        if self._is_in_journal(epoch):
            return await self._make_record(epoch)
        return await self._run(self._history.read, epoch)

    async def read_history(self, count: int) -> History:
        return await self._run(self._history.read_tables, count)

    async def read_receipt(self, epoch: int, node_id: int) -> bytes:
        return await self._receipts.read(epoch, node_id)

    async def _follow_chain(self) -> None:
        """With every head: the proposal of the epoch; with every epoch: nodes and pay."""
        while True:
            await self._has_head.wait()
            self._has_head.clear()
            if self._position is None:
                continue
            try:
                await self._read_chain(self._position.epoch)
            except ChainUnavailable as error:
                logger.debug("the monitor cannot read the chain", detail=str(error))

    async def _read_chain(self, epoch: Epoch) -> None:
        chain = self._sources.chain
        if await chain.follow(epoch):
            self._changed |= set(range(epoch - SETTLED_BEHIND, epoch + 1))
            self._submissions = {e: s for e, s in self._submissions.items() if e >= epoch - 2}
        known = self._submissions.get(epoch)
        if known is None or not known.voters <= known.attested:
            found = await chain.fetch_submission(epoch)
            if found is not None and found != known:
                self._submissions[epoch] = found
                self._changed |= {epoch - 1, epoch}
        self._has_news.set()

    async def _refresh(self) -> None:
        changed = sorted(epoch for epoch in self._changed if epoch >= 0)
        self._changed.clear()
        for epoch in changed:
            if self._is_in_journal(epoch):
                await self._keep(await self._make_record(epoch))
        self._publish()

    async def _keep(self, record: EpochRecord) -> None:
        self._newest.note(record, is_scored=record.source == "computed")
        before = self._results.get(record.epoch)
        after = self._results[record.epoch] = digest_results(record)
        if before != after:
            await self._run(self._history.write, record)
        self.hub.note_epoch(record.epoch, has_results=before != after)
        for old in [epoch for epoch in self._results if epoch < record.epoch - SETTLED_BEHIND - 1]:
            del self._results[old]

    def _publish(self) -> None:
        sources, now_s = self._sources, self._sources.get_wall_time_s()
        servers = sources.directory.list_servers()
        rows = make_rows(
            servers,
            self._list_chain_nodes(),
            self._newest.earned,
            own=sources.own,
            with_addresses=self._shows_addresses,
        )
        head = Head(
            observer=self._describe_observer(),
            network=self._describe_network(),
            chain=self._describe_clock(),
            hosters=count_hosters(servers, num_blocks=sources.network.num_layers),
            scored_epoch=self._newest.scored_epoch,
            settled_epoch=self._newest.settled_epoch,
        )
        self.hub.publish(head, self._leavers.merge(rows, now_s=now_s))

    def _list_chain_nodes(self) -> tuple[ChainNode, ...]:
        """Return the chain's nodes; before they are read, those of the newest roster."""
        nodes = self._sources.chain.nodes
        roster = self._sources.get_roster()
        if not nodes and roster is not None:
            nodes = tuple(
                ChainNode(
                    node_id=node.node_id,
                    peer_id=node.peer_id,
                    node_class=node.node_class,
                    start_epoch=int(node.start_epoch),
                )
                for node in roster.nodes
            )
        return tuple(map(self._judge_own, nodes))

    def _judge_own(self, node: ChainNode) -> ChainNode:
        """Return the node; if it is this one, with what it knows of itself beside the chain."""
        found = self._sources.get_eligibility()
        if node.node_id != self._sources.node_id or found is None:
            return node
        return replace(node, eligibility=found)

    def _describe_observer(self) -> Observer:
        return Observer(
            kind="node",
            name=f"node {self._sources.node_id}",
            software=SOFTWARE,
            node_id=int(self._sources.node_id),
            keeps_receipts=True,
        )

    def _describe_network(self) -> Network:
        sources = self._sources
        return describe_network(sources.network, subnet_id=int(sources.terms.subnet_id))

    def _describe_clock(self) -> ChainClock | None:
        position, schedule = self._position, self._sources.terms.schedule
        if position is None:
            return None
        return make_clock(
            position,
            schedule,
            head_at=self._head_at,
            block_time_s=self._sources.terms.block_time_s,
            elected=self._sources.journal.elections.get(position.epoch),
        )

    def _is_in_journal(self, epoch: int) -> bool:
        return epoch in self._sources.journal.rosters

    async def _make_record(self, number: int) -> EpochRecord:
        sources, journal, epoch = self._sources, self._sources.journal, Epoch(number)
        roster, report = journal.rosters[epoch], journal.reports.get(epoch)
        seen = {**journal.get_timed_records(epoch)}
        # The score reveals of an epoch come in the one after it, which is where they are drawn.
        seen = {slot: r for slot, r in seen.items() if slot[0] is not RecordKind.SCORE_REVEAL}
        for slot, record in journal.get_timed_records(Epoch(epoch - 1)).items():
            if slot[0] is RecordKind.SCORE_REVEAL:
                seen[slot] = record
        found = EpochFound(
            epoch=epoch,
            schedule=sources.terms.schedule,
            first_block=int(roster.first_block),
            known=frozenset(map(int, roster.ids)),
            has_records=True,
            seen=seen,
            elected=journal.elections.get(epoch),
            submission=self._find_submission(epoch),
            following=self._find_submission(Epoch(epoch + 1)),
            min_attestation=sources.chain.min_attestation,
            is_over=self._position is not None and self._position.epoch > epoch,
            audited=find_audited(journal.draws.get(epoch), sources.shape, sources.terms.params),
            # The proposal of the next epoch pays for this one.
            paid=sources.chain.paid.get(epoch + 1, {}),
        )
        return await self._run(_finish_record, found, report)

    def _find_submission(self, epoch: Epoch) -> Submission | None:
        return self._sources.journal.submissions.get(epoch) or self._submissions.get(epoch)

    def _fill_history(self, reports: Mapping[Epoch, bytes]) -> None:
        """Write what the journal still knows of epochs before this history began."""
        known = set(self._history.list_epochs())
        for epoch in sorted(reports.keys() - known):
            found = EpochFound(epoch=epoch, is_over=True)
            self._history.write(_finish_record(found, reports[epoch]))


def _finish_record(found: EpochFound, report: bytes | None) -> EpochRecord:
    body: Mapping[str, Any] | None = None if report is None else json.loads(report)
    return make_record(replace(found, report=body))


def describe_network(info: NetworkInfo, *, subnet_id: int | None) -> Network:
    """Return what the page says of the network."""
    return Network(
        subnet_id=subnet_id,
        network_id=info.network_id.hex(),
        manifest_hash=info.manifest_hash.hex(),
        model=info.model_name.rstrip("/").rpartition("/")[2]
        if info.model_name.startswith("/")
        else info.model_name,
        num_blocks=info.num_layers,
    )
