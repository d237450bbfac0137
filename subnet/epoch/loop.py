"""Runs a node's part in the epochs: follow the head, read, compute duties, perform them.

On each new block, publish what is signed and due, start the readings of peers' records, store
missing chain state in the journal, then start the duties that ``compute_duties`` returns. Readings
and duties run in tasks of their own, a duty at most once per lane, and a newer head never waits
for them. Whatever was owed and not done is said once, with its reason. The protocol's only clock
is the chain's block number. An unexpected error ends the loop and with it the process; what the
journal holds makes the restart safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import aclosing

from consensus.duties import (
    Attest,
    Duty,
    Republish,
    Reveal,
    compute_duties,
    get_lane,
    list_republished,
    list_reveals,
)
from consensus.owed import explain_stay, explain_unable, list_duties_now
from consensus.reading import is_urgent
from consensus.types import BlockNumber, Epoch, EpochPosition
from consensus.view import EpochStatus, EpochView
from mesh.errors import TransportError
from subnet.epoch.collector import Collector
from subnet.epoch.context import NodeContext
from subnet.epoch.heads import follow_heads, is_clock_right
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.missed import MissedDuties
from subnet.epoch.observer import (
    DutyDone,
    DutyFailed,
    Elected,
    HeadHandled,
    HeadSeen,
    NodeEvent,
    ParticipationChanged,
    Unavailable,
)
from subnet.epoch.performer import Performer
from subnet.epoch.receipts import ReceiptKeeper
from subnet.epoch.view_builder import ViewBuilder
from subnet.errors import ChainUnavailable, DutyPostponed

READS_PER_BLOCK = 4
"""Readings per block while the next head may be too late for a record that is still missing."""
READING_PATIENCE_BLOCKS = 0.25
"""How long duties wait for the readings that began before: they may bring what is to be signed."""


class EpochLoop:
    """Runs one node's part in the subnet's epochs."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._terms = context.terms
        self._rosters = context.rosters
        self._collector = Collector(context, get_position=self._get_newest)
        self._views = ViewBuilder(context)
        self._performer = Performer(context, get_position=self._get_newest)
        self._missed = MissedDuties(context)
        self._receipts = ReceiptKeeper(context, get_submission=self._views.get_submission)
        self._status: EpochStatus | None = None
        self._told_election: Elected | None = None
        schedule = context.terms.schedule
        self._urgent = frozenset(o for o in range(schedule.length) if is_urgent(schedule, o))
        self._head: BlockInfo | None = None
        self._handled: BlockNumber | None = None
        self._position: EpochPosition | None = None
        self._is_clock_right = True
        self._news = asyncio.Event()
        self._running: set[Hashable] = set()
        self._readings: set[asyncio.Task[None]] = set()
        self._waits_for_readings = False

    async def run(self) -> None:
        """Follow the chain until cancelled. Raises unexpected errors in a group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_heads())
            tasks.create_task(self._work(tasks))

    def plan_again(self) -> None:
        """Plan once more at this head: what a duty waited for, such as the model, is there now."""
        self._news.set()

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
                await self._take_head(head, tasks)
                self._handled = head.number
            if self._position is None:
                continue
            if not has_news:
                self._begin_readings(self._position, tasks)
            # A finished duty or reading may make others due, but there is nothing new to read.
            await self._plan(self._position, tasks)

    async def _wait_for_news(self) -> bool:
        """Wait for a head or a finished task; False if a reading is due before the next one."""
        if self._position is None or not self._is_in_a_hurry(self._position):
            await self._news.wait()
        else:
            try:
                async with asyncio.timeout(self._terms.block_time_s / READS_PER_BLOCK):
                    await self._news.wait()
            except TimeoutError:
                return False
        self._news.clear()
        return True

    def _is_in_a_hurry(self, position: EpochPosition) -> bool:
        """Whether the next head may be too late for a record, our own reveal or another node's."""
        if position.offset not in self._urgent:
            return False
        return bool(self._collector.list_wanted(position) or self._list_signed(position))

    async def _take_head(self, head: BlockInfo, tasks: asyncio.TaskGroup) -> None:
        """Start what needs the chain no more, then ask it what the head has changed."""
        known = self._rosters.get_position(head.number)
        is_read = known is not None and self._rosters.get_roster(known.epoch) is not None
        if known is not None:
            self._position = known
            self._begin_readings(known, tasks)
        try:
            self._position = await self._rosters.locate(head)
            if self._position is not None:
                await self._views.refresh(self._position)
        except ChainUnavailable as error:
            # The state that was read before stays in use; the next head is the next attempt.
            self._observe(Unavailable("chain", str(error)))
        if self._position is not None and not is_read:
            self._begin_readings(self._position, tasks)
        if self._readings:
            patience_s = READING_PATIENCE_BLOCKS * self._terms.block_time_s
            self._waits_for_readings = True
            await asyncio.wait(self._readings, timeout=patience_s)
            self._waits_for_readings = False

    def _begin_readings(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Publish what we have signed, which waits for nothing, then read the others' records."""
        for duty in self._list_signed(position):
            self._start(duty, tasks)
        for reading in self._collector.begin(position):
            task = tasks.create_task(reading)
            self._readings.add(task)
            task.add_done_callback(self._end_reading)

    def _end_reading(self, task: asyncio.Task[None]) -> None:
        self._readings.discard(task)
        if not self._readings and not self._waits_for_readings:
            self._news.set()

    async def _plan(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Start the duties that are due and not under way, and say what was missed."""
        view = self._build_view(position)
        self._receipts.note_head(position)
        duties = list_duties_now(view)
        stay = explain_stay(view, duties) if self._context.is_paid else None
        self._observe(HeadHandled(position, view.status, duties, stay))
        self._tell_election(view)
        if not self._context.is_paid:
            return
        self._tell_status(view)
        for duty in compute_duties(view):
            # What is signed was published before the readings, once at each head.
            if not isinstance(duty, Republish):
                self._start(duty, tasks)
        await self._missed.note(view)
        for epoch in self._receipts.list_due(view.epoch):
            self._keep_receipt(epoch, tasks)

    def _tell_status(self, view: EpochView) -> None:
        """Say whether this node takes part when that changes.

        Each epoch begins with the wait for its first block, which is no change: a wait that lasts
        ends as CHAIN_STALE.
        """
        if view.status not in (self._status, EpochStatus.WAITING):
            self._status = view.status
            self._observe(ParticipationChanged(view.epoch, view.status))

    def _tell_election(self, view: EpochView) -> None:
        """Say that this node is elected, and at once if it will not be able to propose."""
        if view.elected != view.node_id or view.submission is not None:
            return
        told = Elected(view.epoch, explain_unable(view, is_paid=self._context.is_paid))
        if told != self._told_election:
            self._told_election = told
            self._observe(told)

    def _observe(self, event: NodeEvent) -> None:
        if isinstance(event, Unavailable) and event.what == "chain":
            self._receipts.note_trouble(event.detail)
        self._context.observe(event)

    def _keep_receipt(self, epoch: Epoch, tasks: asyncio.TaskGroup) -> None:
        lane = ("receipt", epoch)
        if lane not in self._running:
            self._running.add(lane)
            task = tasks.create_task(self._receipts.keep(epoch))
            task.add_done_callback(lambda _: self._running.discard(lane))

    def _list_signed(self, position: EpochPosition) -> tuple[Reveal | Republish, ...]:
        """Return the duties that only publish what the journal holds."""
        if not self._context.is_paid:
            return ()
        view = self._build_view(position)
        return *list_reveals(view), *list_republished(view)

    def _build_view(self, position: EpochPosition) -> EpochView:
        roster = self._rosters.get_roster(position.epoch)
        return self._views.build_view(
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
            self._missed.remember(duty, str(error))
            self._observe(DutyFailed(duty, str(error)))
        else:
            if not self._is_refused(duty):
                self._observe(DutyDone(duty))
            # A finished duty may make another one due at the same head.
            self._news.set()
        finally:
            self._running.discard(lane)

    def _is_refused(self, duty: Duty) -> bool:
        """Whether the duty ended with a refusal, which was told when it was written down."""
        return isinstance(duty, Attest) and duty.epoch in self._context.journal.refused
