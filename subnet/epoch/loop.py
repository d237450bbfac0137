"""Runs a node's part in the epochs: follow the head, read, compute duties, perform them.

On each new block, store missing chain state in the journal, fetch peers' records, then start the
duties that ``consensus.duties.compute_duties`` returns. Duties that take long run in tasks of
their own, at most one per lane, and a newer head never waits for them. The protocol's only clock
is the chain's block number. An unexpected error ends the loop and with it the process; what the
journal holds makes the restart safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import aclosing

from consensus.duties import (
    Duty,
    RevealOutput,
    RevealScores,
    compute_duties,
    get_lane,
)
from consensus.reading import is_urgent
from consensus.records import RecordKind
from consensus.types import BlockNumber, EpochPosition
from consensus.view import EpochView
from mesh.errors import TransportError
from subnet.epoch.collector import Collector
from subnet.epoch.context import NodeContext
from subnet.epoch.heads import follow_heads, is_clock_right
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.observer import DutyDone, DutyFailed, HeadHandled, HeadSeen, Unavailable
from subnet.epoch.performer import Performer
from subnet.epoch.snapshot import Snapshot
from subnet.errors import ChainUnavailable, DutyPostponed

READS_PER_BLOCK = 4
"""Readings per block while the next head may be too late for a record that is still missing."""


class EpochLoop:
    """Runs one node's part in the subnet's epochs."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._terms = context.terms
        self._rosters = context.rosters
        self._observe = context.observe
        self._collector = Collector(context)
        self._snapshot = Snapshot(context)
        self._performer = Performer(context, get_position=self._get_newest)
        self._head: BlockInfo | None = None
        self._handled: BlockNumber | None = None
        self._position: EpochPosition | None = None
        self._is_clock_right = True
        self._news = asyncio.Event()
        self._running: set[Hashable] = set()

    async def run(self) -> None:
        """Follow the chain until cancelled. Raises unexpected errors in a group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_heads())
            tasks.create_task(self._work(tasks))

    async def _follow_heads(self) -> None:
        context = self._context
        heads = follow_heads(
            context.reader,
            self._terms,
            newest=self._rosters.get_newest_roster(),
            get_wall_time_s=context.get_wall_time_s,
            observe=self._observe,
        )
        async with aclosing(heads):
            async for head in heads:
                self._observe(HeadSeen(head))
                self._head, now_s = head, context.get_wall_time_s()
                self._is_clock_right = is_clock_right(head, now_s=now_s, params=self._terms.params)
                self._news.set()

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            has_news = await self._wait_for_news()
            head = self._head
            is_new = head is not None and head.number != self._handled
            if head is not None and is_new:
                await self._take_snapshot(head)
                self._handled = head.number
            if self._position is None:
                continue
            # A finished duty may make others due, but there is nothing new to read.
            if is_new or not has_news:
                await self._read(self._position, tasks)
            self._plan(self._position, tasks)

    async def _wait_for_news(self) -> bool:
        """Wait for a head or a finished duty; False if a reading is due before the next one."""
        timeout_s = None
        if self._position is not None and self._is_in_a_hurry(self._position):
            timeout_s = self._terms.block_time_s / READS_PER_BLOCK
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def _is_in_a_hurry(self, position: EpochPosition) -> bool:
        """Whether the next head may be too late for a record, our own reveal or another node's."""
        if not is_urgent(self._terms.schedule, position.offset):
            return False
        return bool(self._collector.list_wanted(position) or self._list_reveals(position))

    def _list_reveals(self, position: EpochPosition) -> list[Duty]:
        if not self._terms.schedule.is_departure(RecordKind.OUTPUT_REVEAL, position.offset):
            return []
        duties = self._list_duties(self._build_view(position))
        return [duty for duty in duties if isinstance(duty, RevealOutput | RevealScores)]

    async def _take_snapshot(self, head: BlockInfo) -> None:
        try:
            self._position = await self._rosters.locate(head)
            if self._position is not None:
                await self._snapshot.refresh(self._position)
        except ChainUnavailable as error:
            # The state that was read before stays in use; the next head is the next attempt.
            self._observe(Unavailable("chain", str(error)))

    async def _read(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Start our own reveals, which must not wait, then read the others' records."""
        for duty in self._list_reveals(position):
            self._start(duty, tasks)
        try:
            await self._collector.read(position, get_position=self._get_newest)
        except TransportError as error:
            self._observe(Unavailable("records", str(error)))

    def _plan(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Start the duties that are due and not under way."""
        view = self._build_view(position)
        self._observe(HeadHandled(position, view.status))
        for duty in self._list_duties(view):
            self._start(duty, tasks)

    def _list_duties(self, view: EpochView) -> tuple[Duty, ...]:
        return compute_duties(view) if self._context.is_paid else ()

    def _build_view(self, position: EpochPosition) -> EpochView:
        roster = self._rosters.get_roster(position.epoch)
        return self._snapshot.build_view(
            position,
            is_clock_right=self._is_clock_right,
            is_challenge_seen=roster is not None and self._collector.is_challenge_seen(roster),
        )

    def _get_newest(self) -> EpochPosition | None:
        head = self._head
        return None if head is None else self._rosters.get_position(head.number)

    def _start(self, duty: Duty, tasks: asyncio.TaskGroup) -> None:
        lane = get_lane(duty)
        if lane not in self._running:
            self._running.add(lane)
            tasks.create_task(self._perform(duty, lane))

    async def _perform(self, duty: Duty, lane: Hashable) -> None:
        try:
            await self._performer.perform(duty)
        except (DutyPostponed, ChainUnavailable, TransportError) as error:
            self._observe(DutyFailed(duty, str(error)))
        else:
            self._observe(DutyDone(duty))
            # A finished duty may make another one due at the same head.
            self._news.set()
        finally:
            self._running.discard(lane)
