"""Each head: snapshot, plan, perform.

The chain is the only clock of the protocol. Every new head is located in its epoch,
what is missing of the chain's word is read into the journal, the records that may
count are looked for, and ``consensus.duties`` says what is owed. Slow work runs beside
the loop, once per duty; the newest head always wins. Anything unexpected ends the
loop, and the journal makes the restart safe.
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
from consensus.roster import Roster
from consensus.types import BlockNumber, EpochPosition
from consensus.view import EpochView
from mesh.errors import TransportError
from subnet.epoch.collector import Collector
from subnet.epoch.heads import HeadFilter
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.observer import DutyDone, DutyFailed, HeadHandled, Observe, Unavailable
from subnet.epoch.performer import Participant, Performer, World
from subnet.epoch.rosters import Membership, SubnetTerms, is_clock_right
from subnet.epoch.snapshot import Snapshot
from subnet.errors import ChainUnavailable, DutyPostponed
from subnet.journal.journal import Journal
from subnet.thread_runner import Runner

READS_PER_BLOCK = 4
"""Where the next head may be too late for a record, records are read this often before it."""
HEADS_RETRY_S = 1.0
DOUBT_RETRY_S = 0.2
KNOWN_AHEAD_EPOCHS = 2
"""How far ahead of its newest roster a node may find the chain when it starts."""


class EpochLoop:
    """One node's part in the subnet's epochs."""

    def __init__(
        self,
        terms: SubnetTerms,
        participant: Participant,
        world: World,
        *,
        journal: Journal,
        membership: Membership,
        run: Runner,
        observe: Observe,
    ) -> None:
        self._terms = terms
        self._world = world
        self._is_paid = participant.is_paid
        self._membership = membership
        self._observe = observe
        self._collector = Collector(
            terms, store=world.store, journal=journal, membership=membership, observe=observe
        )
        self._snapshot = Snapshot(
            terms,
            node_id=participant.node_id,
            peer_id=participant.key.peer_id,
            role=participant.role,
            has_hotkey=world.writer is not None,
            reader=world.reader,
            journal=journal,
            membership=membership,
            observe=observe,
        )
        self._performer = Performer(
            terms,
            participant,
            world,
            journal=journal,
            run=run,
            get_position=self._get_newest,
            observe=observe,
        )
        self._heads = HeadFilter(
            block_time_s=terms.block_time_s,
            known=_get_known_block(membership.get_newest_roster()),
            known_ahead=KNOWN_AHEAD_EPOCHS * terms.epoch_length,
        )
        self._handled: BlockNumber | None = None
        self._position: EpochPosition | None = None
        self._is_clock_right = True
        self._news = asyncio.Event()
        self._running: set[Hashable] = set()

    async def run(self) -> None:
        """Follow the chain until cancelled. Raises, in a group, what nobody expected."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_heads())
            tasks.create_task(self._work(tasks))

    async def _follow_heads(self) -> None:
        while True:
            pause_s = HEADS_RETRY_S
            try:
                async with aclosing(self._world.reader.heads()) as heads:
                    async for head in heads:
                        self._take_head(head)
                        if self._heads.is_doubting:
                            # Asked again soon: a chain that runs faster than it says, or after a
                            # stall of ours, is out of line too, and its phases do not wait.
                            pause_s = DOUBT_RETRY_S
                            break
            except ChainUnavailable as error:
                self._observe(Unavailable("chain", str(error)))
            await asyncio.sleep(pause_s)

    def _take_head(self, head: BlockInfo) -> None:
        now_s = self._world.get_wall_time_s()
        if self._heads.take(head, now_s=now_s):
            self._is_clock_right = is_clock_right(head, now_s=now_s, params=self._terms.params)
            self._news.set()
        elif self._heads.is_doubting:
            detail = f"block {head.number} is out of line with the blocks before; asking again"
            self._observe(Unavailable("chain", detail))

    async def _work(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            has_news = await self._wait_for_news()
            head = self._heads.head
            is_new = head is not None and head.number != self._handled
            if head is not None and is_new:
                await self._take_snapshot(head)
                self._handled = head.number
            if self._position is None:
                continue
            # A finished duty asks for the next ones, but brings nothing to read.
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
        """Whether the next head may be too late for a record: a reveal of ours, or another's."""
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
            self._position = await self._membership.locate(head)
            if self._position is not None:
                await self._snapshot.refresh(self._position)
        except ChainUnavailable as error:
            # What is known still counts; the next head is the next attempt.
            self._observe(Unavailable("chain", str(error)))

    async def _read(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Read what others published; our own reveals do not wait for that."""
        for duty in self._list_reveals(position):
            self._start(duty, tasks)
        try:
            await self._collector.read(position, get_position=self._get_newest)
        except TransportError as error:
            self._observe(Unavailable("records", str(error)))

    def _plan(self, position: EpochPosition, tasks: asyncio.TaskGroup) -> None:
        """Start whatever is owed and not under way."""
        view = self._build_view(position)
        self._observe(HeadHandled(position, view.status))
        for duty in self._list_duties(view):
            self._start(duty, tasks)

    def _list_duties(self, view: EpochView) -> tuple[Duty, ...]:
        return compute_duties(view) if self._is_paid else ()

    def _build_view(self, position: EpochPosition) -> EpochView:
        roster = self._membership.get_roster(position.epoch)
        return self._snapshot.build_view(
            position,
            is_clock_right=self._is_clock_right,
            is_challenge_seen=roster is not None and self._collector.is_challenge_seen(roster),
        )

    def _get_newest(self) -> EpochPosition | None:
        head = self._heads.head
        return None if head is None else self._membership.get_position(head.number)

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
            # What is done may make something else due at this very head.
            self._news.set()
        finally:
            self._running.discard(lane)


def _get_known_block(roster: Roster | None) -> BlockInfo | None:
    if roster is None:
        return None
    return BlockInfo(roster.first_block, roster.block_hash, roster.timestamp_s)
