"""The journal: what this node signed, saw and sent, on disk before the node acts on it.

Theory of operation
-------------------

What it is for. A node may be killed between any two lines of its code. Afterwards it must still
be able to open every commitment that it published, must not sign a second record for a slot (of
two records for one slot neither counts), must not send an extrinsic twice, and must still have
what it saw and when, and what proposals name. Everything that these need is in the journal, and
the reasons for what it refused or did not do; nothing else is.

Parts. ``Log`` (log.py) owns the SQLite file: rows that are only appended, and pruned from the
oldest. ``codec`` turns values into the bytes of a row and back. ``Journal`` owns the dictionaries
that the node reads: rosters, elections, own, seen and fetched records and so on. They are the
result of applying all rows in order, when the file is opened and after each write. So reading is
instant, and memory never holds what the disk does not.

Order of a write. One write at a time (``_writing``):

1. ``Log.append`` runs in the journal's thread: one transaction holds the new rows and the head
   row. Rows that hold signatures are also moved out of SQLite's write-ahead file at once.
2. The rows are applied to the dictionaries, in the event loop.
3. The caller goes on, and may publish. Nothing is published before this point.

A commit and the reveal that opens it are written in one transaction, so a commit on disk can
always be opened. Salts are derived from the key, so they are not secrets of the journal.

Trust. Each row holds the SHA-256 of all rows before it; the head row holds the checksum of the
last row and the owner. A flipped byte, a lost row, a lost tail and a file of another node are
therefore found when the file is opened, and the node refuses to start (JournalCorrupt). A slot
(kind, epoch) is unique in the table, so SQLite itself refuses a second signature. One process
has the file at a time: a lock file beside it is held with flock, which the kernel releases when
the process dies. The owner is the public key and the network id; a chain that starts anew is
another network, so its node does not use the epochs of the dead chain.

What can fail, and what happens then.

- The process dies before step 1 ends: the transaction is not there, and the node does the duty
  again. It dies after: the row is there, and the node publishes the same bytes again.
- A write fails or is cancelled: what the disk holds is unknown. ``_is_broken`` makes every later
  write raise JournalFailed, so nothing more is signed; the process ends and the next one reads
  the file.
- The disk is full: JournalFailed says so. When it was full while the file was created, the file
  holds no table or no byte, so nothing was ever signed with it, and the next start makes the
  tables. A file that was cut off anywhere else is JournalCorrupt.
- The schema is of another version: an older one is migrated in one transaction a step, or refused
  with the fix where no step leads here; so is a newer one.

Seen and fetched. ``record_seen`` keeps the first record of each kind and author with the head at
which this node saw it in time or late; nothing replaces it. What is fetched later because a
proposal names it, perhaps another version of the record, stands beside it (and MAX_FETCHED
unnamed ones of a slot), and is found by its name only.

Growth. Rows of epochs that are KEPT_EPOCHS old are deleted when a roster is recorded: their
records have expired. Signing for them is refused from then on, because the proof that nothing was
signed has gone with the rows. Reports for people are kept longer (log.py: KEPT_REPORTS).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from consensus.evidence import TimedRecord, TimedRecords
from consensus.missed import OwedDuty
from consensus.naming import Slot, get_name
from consensus.records import RecordKind
from consensus.roster import Roster
from consensus.submission import Submission
from consensus.types import BlockNumber, Epoch, SubnetNodeId
from consensus.view import Attempts
from keys.envelope import Envelope, decode_envelope
from keys.errors import KeysError
from subnet.errors import AlreadySigned, JournalCorrupt, JournalFailed
from subnet.journal.codec import (
    decode_missed,
    decode_probation,
    decode_roster,
    decode_submission,
    decode_timed_record,
    encode_fetched,
    encode_missed,
    encode_probation,
    encode_roster,
    encode_signed,
    encode_submission,
    encode_timed_record,
)
from subnet.journal.log import KEPT_REPORTS, Event, EventType, Log, open_connection
from subnet.thread_runner import Runner

JOURNAL_FILE = "journal.sqlite"
KEPT_EPOCHS = 4
"""Epochs of records that are kept: scoring reads three, and their records have expired."""
MAX_FETCHED = 4
"""Fetched versions of one record that no proposal names; an honest author has one."""
NO_ATTEMPTS = Attempts()
MAX_REASON = 500
"""Characters of a reason that are kept."""


class Extrinsic(Enum):
    """The two extrinsics of an epoch."""

    PROPOSE = "propose"
    ATTEST = "attest"


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """An envelope that this node signed, and whether a replica has acknowledged it."""

    envelope: Envelope
    is_acknowledged: bool = False


class Journal:
    """What the node remembers. Reading is instant; writing returns when it is on disk."""

    def __init__(self, log: Log, run: Runner) -> None:
        self._log = log
        self._run = run
        self._writing = asyncio.Lock()
        self._is_broken = False
        self._oldest = Epoch(0)
        self._own: dict[tuple[RecordKind, Epoch], SignedRecord] = {}
        self._confirmed: set[tuple[RecordKind, Epoch]] = set()
        self._sightings: dict[Epoch, dict[tuple[RecordKind, SubnetNodeId], TimedRecord]] = {}
        self._rosters: dict[Epoch, Roster] = {}
        self._elections: dict[Epoch, SubnetNodeId | None] = {}
        self._stale: dict[Epoch, bool] = {}
        self._attempts: dict[tuple[Extrinsic, Epoch], Attempts] = {}
        self._refused: dict[Epoch, str] = {}
        self._submissions: dict[Epoch, Submission | None] = {}
        self._reports: dict[Epoch, bytes] = {}
        self._draws: dict[Epoch, bytes] = {}
        self._probation: dict[Epoch, Mapping[SubnetNodeId, int]] = {}
        self._missed: dict[Epoch, dict[OwedDuty, str]] = {}
        self._by_name: dict[bytes, Envelope] = {}
        self._fetched: Counter[Slot] = Counter()
        self.own_records: Mapping[tuple[RecordKind, Epoch], SignedRecord] = MappingProxyType(
            self._own
        )
        self.rosters: Mapping[Epoch, Roster] = MappingProxyType(self._rosters)
        self.elections: Mapping[Epoch, SubnetNodeId | None] = MappingProxyType(self._elections)
        self.submissions: Mapping[Epoch, Submission | None] = MappingProxyType(self._submissions)
        """Proposals of finished epochs; None where there was none."""
        self.refused: Mapping[Epoch, str] = MappingProxyType(self._refused)
        """Epochs whose proposal differs from what this node computed, and how."""
        self.missed: Mapping[Epoch, Mapping[OwedDuty, str]] = MappingProxyType(self._missed)
        """Duties that this node owed and did not do, and why."""
        self.draws: Mapping[Epoch, bytes] = MappingProxyType(self._draws)
        """Hashes of the final blocks that drew the audited layers."""
        self.probation: Mapping[Epoch, Mapping[SubnetNodeId, int]] = MappingProxyType(
            self._probation
        )
        """Epochs that nodes stay unpaid, from the epoch on."""
        self.reports: Mapping[Epoch, bytes] = MappingProxyType(self._reports)

    @classmethod
    def load(cls, connection: sqlite3.Connection, *, owner: bytes, run: Runner) -> Journal:
        """Read the journal in ``connection``, whose autocommit is on, and check every row.

        ``owner`` names node and network: a journal copied to another node is refused.
        Raises JournalCorrupt or ConfigError.
        """
        log = Log(connection, owner)
        journal = cls(log, run)
        for event in log.load():
            try:
                journal._apply(event)
            except (ValueError, KeyError, TypeError, struct.error, KeysError) as error:
                raise JournalCorrupt(f"a row of the journal makes no sense: {error}") from error
        journal._reports |= log.read_reports()
        if journal._rosters:
            journal._forget(Epoch(max(journal._rosters) + 1 - KEPT_EPOCHS))
        return journal

    def close(self) -> None:
        """Close the file; a write that a thread is in the middle of ends first."""
        self._is_broken = True
        self._log.close()

    def get_timed_records(self, epoch: Epoch) -> TimedRecords:
        """Return what was seen of one epoch's records."""
        return MappingProxyType(self._sightings.get(epoch, {}))

    def find_by_name(self, name: bytes) -> Envelope | None:
        """Return the record whose hash begins so, be it seen, fetched or this node's own."""
        return self._by_name.get(name)

    def list_unconfirmed(self) -> frozenset[tuple[RecordKind, Epoch]]:
        """Return the own records that no replica has acknowledged since this journal was opened."""
        return frozenset(self._own.keys() - self._confirmed)

    def get_attempts(self, extrinsic: Extrinsic, epoch: Epoch) -> Attempts:
        """Return how often an extrinsic was sent in this epoch."""
        return self._attempts.get((extrinsic, epoch), NO_ATTEMPTS)

    def is_stale(self, epoch: Epoch) -> bool:
        """Whether the epoch's first block was not final in time."""
        return epoch in self._stale

    async def record_signed(self, record: Envelope, reveal: Envelope | None = None) -> Envelope:
        """Write a record, and the reveal that opens it, before either is published.

        Returns what the journal holds for the slot: an identical repeat changes nothing.
        Raises AlreadySigned for another body, JournalFailed if it cannot be written.
        """
        async with self._writing:
            stored = self._find_signed(record)
            if stored is not None:
                if reveal is not None:
                    self._find_signed(reveal)
                return stored
            signed = (record,) if reveal is None else (record, reveal)
            await self._write([encode_signed(envelope) for envelope in signed], is_signing=True)
        return record

    async def record_acknowledged(self, kind: RecordKind, epoch: Epoch) -> None:
        """Write that a replica is known to hold this node's record."""
        await self._record(Event(epoch, EventType.ACKNOWLEDGED, bytes([kind])))
        self._confirmed.add((kind, epoch))

    async def record_seen(self, records: Sequence[TimedRecord]) -> None:
        """Write what one reading brought. The first record of a slot stays."""
        events = [encode_timed_record(record) for record in records if not self._has_seen(record)]
        await self._record(*events)

    async def record_fetched(
        self, envelopes: Sequence[Envelope], *, are_named: bool = False
    ) -> None:
        """Write records that were fetched; what is known or too old is left out.

        MAX_FETCHED versions of a slot are kept, and those that ``are_named`` by a proposal beside
        them: else an author with many versions could keep out the one that counts.
        """
        events, counts = [], Counter(self._fetched)
        for envelope in {get_name(envelope): envelope for envelope in envelopes}.values():
            slot = _get_slot(envelope)
            is_known = get_name(envelope) in self._by_name
            is_kept = are_named or counts[slot] < MAX_FETCHED
            if not is_known and envelope.epoch >= self._oldest and is_kept:
                counts[slot] += 1
                events.append(encode_fetched(envelope))
        await self._record(*events)

    async def record_roster(self, roster: Roster) -> None:
        """Write an epoch's roster, once; the first one stays. Prunes what is too old."""
        if roster.epoch in self._rosters:
            return
        await self._record(Event(roster.epoch, EventType.ROSTER, encode_roster(roster)))
        await self._prune(Epoch(max(self._rosters) + 1 - KEPT_EPOCHS))

    async def record_election(self, epoch: Epoch, elected: SubnetNodeId | None) -> None:
        """Write whom the chain elected, read once the epoch's first block was final."""
        await self._record(Event(epoch, EventType.ELECTED, json.dumps(elected).encode()))

    async def record_draw(self, epoch: Epoch, block_hash: bytes) -> None:
        """Write the hash of the block that drew the epoch's audits, once it is final."""
        await self._record(Event(epoch, EventType.DRAW, block_hash))

    async def record_probation(self, epoch: Epoch, left: Mapping[SubnetNodeId, int]) -> None:
        """Write how many epochs nodes stay unpaid, ``epoch`` included."""
        await self._record(Event(epoch, EventType.PROBATION, encode_probation(left)))

    async def record_stale(self, epoch: Epoch) -> None:
        """Write that this node sits the epoch out."""
        await self._record(Event(epoch, EventType.STALE, b""))

    async def record_sent(self, extrinsic: Extrinsic, epoch: Epoch, head: BlockNumber) -> None:
        """Write the intent to send an extrinsic, before it is sent."""
        body = {"extrinsic": extrinsic.value, "head": head}
        await self._record(Event(epoch, EventType.SENT, json.dumps(body).encode()))

    async def record_answered(self, extrinsic: Extrinsic, epoch: Epoch, outcome: str) -> None:
        """Write what became of an extrinsic: a block hash, or the chain's reason."""
        body = {"extrinsic": extrinsic.value, "outcome": outcome}
        await self._record(Event(epoch, EventType.ANSWERED, json.dumps(body).encode()))

    async def record_refused(self, epoch: Epoch, detail: str) -> None:
        """Write that the epoch's proposal is not attested, and why."""
        await self._record(Event(epoch, EventType.REFUSED, detail[:MAX_REASON].encode()))

    async def record_missed(self, epoch: Epoch, duty: OwedDuty, reason: str) -> None:
        """Write that this node owed a duty in ``epoch`` and did not do it, and why."""
        payload = encode_missed(duty, reason[:MAX_REASON])
        await self._record(Event(epoch, EventType.MISSED, payload))

    async def record_submission(self, epoch: Epoch, submission: Submission | None) -> None:
        """Write the proposal of a finished epoch, with its attestations."""
        await self._record(Event(epoch, EventType.SUBMISSION, encode_submission(submission)))

    async def record_report(self, epoch: Epoch, body: bytes) -> None:
        """Keep an epoch's report for people to read."""
        async with self._writing:
            with self._guard():
                await self._run(self._log.write_report, epoch, body)
            self._reports[epoch] = body
            self._reports.pop(Epoch(epoch - KEPT_REPORTS), None)

    def _find_signed(self, envelope: Envelope) -> Envelope | None:
        slot = (RecordKind(envelope.kind), Epoch(envelope.epoch))
        stored = self._own.get(slot)
        if stored is None:
            if envelope.epoch < self._oldest:
                raise AlreadySigned(f"epoch {envelope.epoch} is no longer in the journal")
            return None
        if stored.envelope.record_hash != envelope.record_hash:
            raise AlreadySigned(f"another {slot[0].name} of epoch {slot[1]} was signed")
        return stored.envelope

    def _has_seen(self, sighting: TimedRecord) -> bool:
        kind, epoch, node_id = _get_slot(sighting.envelope)
        return (kind, node_id) in self._sightings.get(epoch, {})

    async def _record(self, *events: Event) -> None:
        if events:
            async with self._writing:
                await self._write(events, is_signing=False)

    async def _write(self, events: Sequence[Event], *, is_signing: bool) -> None:
        with self._guard():
            await self._run(self._log.append, events, is_signing=is_signing)
        for event in events:
            self._apply(event)

    async def _prune(self, before: Epoch) -> None:
        async with self._writing:
            with self._guard():
                await self._run(self._log.prune, before)
            self._forget(before)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if self._is_broken:
            raise JournalFailed("an earlier write failed; nothing more is signed")
        self._is_broken = True
        yield
        self._is_broken = False

    def _apply(self, event: Event) -> None:
        epoch, payload = Epoch(event.epoch), event.payload
        match event.type:
            case EventType.SIGNED:
                envelope = self._index(decode_envelope(payload))
                self._own[RecordKind(envelope.kind), epoch] = SignedRecord(envelope)
            case EventType.ACKNOWLEDGED:
                slot = (RecordKind(payload[0]), epoch)
                # Rows are pruned oldest first: this one may outlive the record that it is about.
                if slot in self._own:
                    self._own[slot] = replace(self._own[slot], is_acknowledged=True)
            case EventType.SIGHTED:
                sighting = decode_timed_record(payload)
                kind, _, node_id = _get_slot(self._index(sighting.envelope))
                self._sightings.setdefault(epoch, {}).setdefault((kind, node_id), sighting)
            case EventType.FETCHED:
                self._fetched[_get_slot(self._index(decode_envelope(payload)))] += 1
            case EventType.DRAW:
                self._draws[epoch] = payload
            case EventType.PROBATION:
                self._probation[epoch] = decode_probation(payload)
            case EventType.MISSED:
                duty, reason = decode_missed(payload)
                self._missed.setdefault(epoch, {})[duty] = reason
            case EventType.ROSTER:
                self._rosters[epoch] = decode_roster(payload)
            case EventType.ELECTED:
                self._elections[epoch] = json.loads(payload)
            case EventType.STALE:
                self._stale[epoch] = True
            case EventType.SENT:
                body = json.loads(payload)
                extrinsic = Extrinsic(body["extrinsic"])
                count = self.get_attempts(extrinsic, epoch).count + 1
                self._attempts[extrinsic, epoch] = Attempts(count, BlockNumber(body["head"]))
            case EventType.ANSWERED:
                pass  # For people. Whether the extrinsic landed is read from the chain.
            case EventType.REFUSED:
                self._refused[epoch] = payload.decode()
            case EventType.SUBMISSION:
                self._submissions[epoch] = decode_submission(payload)

    def _index(self, envelope: Envelope) -> Envelope:
        """Make a record findable; the same record may be own, seen and fetched."""
        return self._by_name.setdefault(get_name(envelope), envelope)

    def _forget(self, before: Epoch) -> None:
        self._oldest = max(self._oldest, before)
        by_epoch: tuple[dict[Epoch, Any], ...] = (
            self._sightings,
            self._rosters,
            self._elections,
            self._stale,
            self._refused,
            self._missed,
            self._submissions,
            self._draws,
            self._probation,
        )
        for table in by_epoch:
            for epoch in [epoch for epoch in table if epoch < before]:
                del table[epoch]
        by_slot: tuple[dict[Any, Any], ...] = (self._own, self._attempts, self._fetched)
        for slots in by_slot:
            for slot in [slot for slot in slots if slot[1] < before]:
                del slots[slot]
        self._confirmed = {slot for slot in self._confirmed if slot[1] >= before}
        for name in [name for name, found in self._by_name.items() if found.epoch < before]:
            del self._by_name[name]


@contextmanager
def open_journal(path: Path, *, owner: bytes, run: Runner) -> Iterator[Journal]:
    """Open the journal file for this process alone.

    Raises ConfigError if another process has it or it is another node's, JournalCorrupt if it
    cannot be trusted and JournalFailed if the disk is full.
    """
    with open_connection(path) as connection:
        journal = Journal.load(connection, owner=owner, run=run)
        try:
            yield journal
        finally:
            journal.close()


def _get_slot(envelope: Envelope) -> Slot:
    return RecordKind(envelope.kind), Epoch(envelope.epoch), SubnetNodeId(envelope.node_id)
