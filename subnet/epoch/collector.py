"""Reads the other nodes' records and journals each with the head at which it was first seen.

A record does not say when it was published. Whether it is on time is decided by the head at which
this node first saw it. Kinds are read beside each other, and a slow store delays no later reading:
what it was asked for is not asked for again until it has answered, and everything else is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from itertools import groupby
from typing import Any

from consensus.admission import EpochTable, admit
from consensus.errors import InvalidRecord, Reason
from consensus.evidence import TimedRecord, find_challenge
from consensus.reading import ReadingView, Wanted, compute_seen_offset, compute_wanted
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.types import BlockNumber, Epoch, EpochPosition
from keys.envelope import Envelope, compute_record_key
from mesh.errors import TransportError
from subnet.epoch.context import NodeContext
from subnet.epoch.observer import RecordDropped, RecordSeen, Unavailable

MAX_KEYS_PER_READ = 64
MAX_READINGS = 32
"""Readings at once; what they leave is read when they have ended."""
READ_TIMEOUT_BLOCKS = 0.5

GetPosition = Callable[[], EpochPosition | None]
"""Tells where the newest head stands."""


class Collector:
    """Reads records into the journal."""

    def __init__(self, context: NodeContext, *, get_position: GetPosition) -> None:
        self._terms = context.terms
        self._store = context.store
        self._journal = context.journal
        self._rosters = context.rosters
        self._observe = context.observe
        self._get_position = get_position
        self._challenge_seen: Epoch | None = None
        self._asked: set[Wanted] = set()
        self._num_readings = 0

    def list_wanted(self, position: EpochPosition) -> tuple[Wanted, ...]:
        """Return the record slots that are still missing and may count at this head."""
        roster = self._rosters.get_roster(position.epoch)
        if roster is None:
            return ()
        previous = Epoch(position.epoch - 1)
        return compute_wanted(
            ReadingView(
                offset=position.offset,
                schedule=self._terms.schedule,
                roster=roster,
                sightings=self._journal.get_timed_records(position.epoch),
                previous_roster=self._rosters.get_roster(previous),
                previous_sightings=self._journal.get_timed_records(previous),
                is_challenge_seen=self.is_challenge_seen(roster),
            )
        )

    def is_challenge_seen(self, roster: Roster) -> bool:
        """Whether any node published the challenge that the chain decides."""
        # Journaled records stay, so one that was found is not looked for again.
        if self._challenge_seen != roster.epoch:
            seed = self._terms.compute_challenge(roster).seed
            if find_challenge(self._journal.get_timed_records(roster.epoch), seed) is None:
                return False
            self._challenge_seen = roster.epoch
        return True

    def begin(self, position: EpochPosition) -> list[Coroutine[Any, Any, None]]:
        """Return readings of what is missing at ``position`` and is not being read; all to be run.

        Each ends within READ_TIMEOUT_BLOCKS, as far as the store keeps to it.
        """
        wanted = [slot for slot in self.list_wanted(position) if slot not in self._asked]
        readings: list[Coroutine[Any, Any, None]] = []
        for _, group in groupby(wanted, key=lambda slot: (slot.kind, slot.epoch)):
            slots = tuple(group)
            for start in range(0, len(slots), MAX_KEYS_PER_READ):
                if self._num_readings == MAX_READINGS:
                    return readings
                part = slots[start : start + MAX_KEYS_PER_READ]
                self._asked.update(part)
                self._num_readings += 1
                readings.append(self._read(position, part))
        return readings

    async def _read(self, position: EpochPosition, wanted: Sequence[Wanted]) -> None:
        try:
            envelopes = await self._fetch(wanted)
            ended = self._get_position() or position
            # Records of a reading that outlasts its epoch were seen after the epoch's last block.
            ended_at = ended.offset if ended.epoch == position.epoch else position.length
            sightings = [self._stamp(found, position, ended_at=ended_at) for found in envelopes]
            await self._journal.record_seen(sightings)
        except TransportError as error:
            self._observe(Unavailable("records", str(error)))
            return
        finally:
            self._asked.difference_update(wanted)
            self._num_readings -= 1
        for sighting in sightings:
            self._observe(RecordSeen(sighting))

    async def _fetch(self, wanted: Sequence[Wanted]) -> list[Envelope]:
        network_id = self._terms.network_id
        keys = {
            compute_record_key(network_id, slot.kind, slot.epoch, slot.author): slot
            for slot in wanted
        }
        timeout_s = READ_TIMEOUT_BLOCKS * self._terms.block_time_s
        values = await self._store.fetch(tuple(keys), timeout_s=timeout_s)
        envelopes = []
        for key, value in values.items():
            slot = keys.get(key)
            if slot is None:
                continue
            try:
                envelopes.append(check_fetched(key, value, slot, self._rosters.table))
            except InvalidRecord as error:
                self._observe(RecordDropped(slot.kind, slot.node_id, error))
        return envelopes

    def _stamp(self, envelope: Envelope, position: EpochPosition, *, ended_at: int) -> TimedRecord:
        offset = compute_seen_offset(
            RecordKind(envelope.kind), began_at=position.offset, ended_at=ended_at
        )
        return TimedRecord(envelope, BlockNumber(position.first_block + offset))


def check_fetched(key: bytes, value: bytes, slot: Wanted, table: EpochTable) -> Envelope:
    """Return the record that a store answered with. Raises InvalidRecord.

    Stores belong to strangers, so their answers pass the same checks as records to store.
    """
    entry = table.entries.get(slot.epoch)
    if entry is None:
        raise InvalidRecord(Reason.UNKNOWN_EPOCH, str(slot.epoch))
    envelope = admit(value, entry.expires_at, table)
    if envelope.key != key:
        raise InvalidRecord(Reason.WRONG_KEY)
    return envelope
