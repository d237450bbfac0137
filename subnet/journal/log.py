"""The rows of the journal on disk: append-only, chained by checksums, checked when opened."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from consensus.types import Epoch
from mesh.progress import track
from subnet.errors import AlreadySigned, ConfigError, JournalCorrupt, JournalFailed
from subnet.journal.disk import is_disk_full, make_write_failure, migrate, open_private

SCHEMA_VERSION = 2
APPLICATION_ID = 0x4D455348
KEPT_REPORTS = 128
"""Epochs of reports that are kept for people to read."""
SQLITE_HEADER_SIZE = 512
MAX_JOURNAL_ROWS = 1 << 20

_SCHEMA = (
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, type INTEGER NOT NULL, "
    "slot TEXT UNIQUE, payload BLOB NOT NULL, checksum BLOB NOT NULL) STRICT",
    "CREATE TABLE head (id INTEGER PRIMARY KEY, owner BLOB NOT NULL, first_seq INTEGER NOT NULL, "
    "base BLOB NOT NULL, last_seq INTEGER NOT NULL, checksum BLOB NOT NULL) STRICT",
    "CREATE TABLE reports (epoch INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum BLOB NOT NULL) "
    "STRICT",
)
_STEPS: dict[int, tuple[str, ...]] = {}
"""Statements that leave an older version. None leads from version 1, the first edition of the
protocol: its manifests, and so its networks and their records, are others."""
_ROW_TAG = b"mesh/journal/row"
_HEAD_TAG = b"mesh/journal/head"
_REPORT_TAG = b"mesh/journal/report"
_ROW_HEADER = struct.Struct("<QqB")


class EventType(Enum):
    """What one row of the log says. Numbers are on disk and never change; 4 is retired."""

    SIGNED = 1
    ACKNOWLEDGED = 2
    SIGHTED = 3
    ROSTER = 5
    ELECTED = 6
    STALE = 7
    SENT = 8
    ANSWERED = 9
    REFUSED = 10
    SUBMISSION = 11
    FETCHED = 12
    DRAW = 13
    PROBATION = 14
    MISSED = 15


@dataclass(frozen=True, slots=True)
class Event:
    """One row: ``slot`` is set where a second row of its kind must be impossible."""

    epoch: int
    type: EventType
    payload: bytes
    slot: str | None = None


class Log:
    """The rows on disk. Blocking; used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, owner: bytes) -> None:
        self._connection = connection
        self._owner = owner
        self._first_seq, self._base = 1, b""
        self._last_seq, self._checksum = 0, b""
        self._epochs: deque[tuple[int, bytes]] = deque()
        self._busy = threading.Lock()

    def close(self) -> None:
        """Close the connection once no thread writes any more."""
        with self._busy:
            self._connection.close()

    def load(self) -> list[Event]:
        """Create the tables, or read and check every row.

        Raises JournalCorrupt, JournalFailed or ConfigError.
        """
        try:
            if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create()
                return []
            self._check_schema()
            return self._read()
        except (sqlite3.DatabaseError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise _make_read_failure(error) from error

    def append(self, events: Sequence[Event], *, is_signing: bool) -> None:
        """Write the rows in one transaction that is on disk when this returns.

        Raises AlreadySigned for a slot that is taken and JournalFailed if the disk refuses.
        """
        last_seq, checksum, rows = self._last_seq, self._checksum, []
        for event in events:
            last_seq += 1
            checksum = _compute_row_checksum(last_seq, event, checksum)
            kind = event.type.value
            rows.append((last_seq, event.epoch, kind, event.slot, event.payload, checksum))
        try:
            with self._transaction(is_signing=is_signing):
                self._connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._write_head(self._first_seq, self._base, last_seq, checksum)
        except sqlite3.IntegrityError as error:
            raise AlreadySigned("the journal holds another record for this slot") from error
        self._last_seq, self._checksum = last_seq, checksum
        self._epochs.extend((row[1], row[5]) for row in rows)

    def prune(self, before: Epoch) -> None:
        """Delete the oldest rows, as far as they belong to epochs below ``before``."""
        first_seq, base = self._first_seq, self._base
        kept = deque(self._epochs)
        while kept and kept[0][0] < before:
            _, base = kept.popleft()
            first_seq += 1
        if first_seq == self._first_seq:
            return
        with self._transaction():
            self._connection.execute("DELETE FROM log WHERE seq < ?", (first_seq,))
            self._write_head(first_seq, base, self._last_seq, self._checksum)
        self._first_seq, self._base, self._epochs = first_seq, base, kept

    def write_report(self, epoch: Epoch, body: bytes) -> None:
        """Keep a report for people; only the newest ``KEPT_REPORTS`` stay."""
        checksum = _compute_report_checksum(epoch, body)
        row, oldest = (epoch, body, checksum), (epoch - KEPT_REPORTS,)
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", row)
            self._connection.execute("DELETE FROM reports WHERE epoch <= ?", oldest)

    def read_reports(self) -> dict[Epoch, bytes]:
        """Return the reports by epoch. Raises JournalCorrupt."""
        reports = {}
        for epoch, body, checksum in self._connection.execute("SELECT * FROM reports"):
            if _compute_report_checksum(epoch, body) != checksum:
                raise JournalCorrupt(f"the report of epoch {epoch} is damaged")
            reports[Epoch(epoch)] = bytes(body)
        return reports

    def _create(self) -> None:
        with self._transaction():
            for statement in _SCHEMA:
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._write_head(1, b"", 0, b"")

    def _check_schema(self) -> None:
        connection = self._connection
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise JournalCorrupt("the file is not a journal of this program")
        migrate(connection, what="the journal", newest=SCHEMA_VERSION, steps=_STEPS)
        tables = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")
        if sorted(sql for (sql,) in tables) != sorted(_SCHEMA):
            raise JournalCorrupt("the tables are not those of a journal")
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise JournalCorrupt("SQLite finds the file damaged")

    def _read(self) -> list[Event]:
        heads = self._connection.execute("SELECT * FROM head").fetchall()
        if len(heads) != 1:
            raise JournalCorrupt("the journal has lost its head")
        _, owner, first_seq, base, last_seq, head_checksum = heads[0]
        rows = self._connection.execute(
            "SELECT * FROM log ORDER BY seq LIMIT ?", (MAX_JOURNAL_ROWS,)
        )
        events, checksum, seq = [], bytes(base), first_seq
        total = max(0, last_seq - first_seq + 1)
        with track("checking the journal", total=total, unit="rows") as step:
            for row_seq, epoch, kind, slot, payload, row_checksum in rows:
                event = Event(epoch, EventType(kind), bytes(payload), slot)
                checksum = _compute_row_checksum(seq, event, checksum)
                if row_seq != seq or checksum != row_checksum:
                    raise JournalCorrupt(f"row {seq} of the journal is damaged")
                events.append(event)
                self._epochs.append((epoch, checksum))
                seq += 1
                step(1)
        expected = _compute_head_checksum(owner, first_seq, bytes(base), last_seq, checksum)
        if seq != last_seq + 1 or expected != head_checksum:
            raise JournalCorrupt("the journal has lost its newest rows")
        if owner != self._owner:
            raise ConfigError(
                "the journal belongs to another node or network",
                "give every node, and every chain that starts anew, its own --data-dir",
            )
        self._first_seq, self._base, self._last_seq, self._checksum = (
            first_seq,
            bytes(base),
            last_seq,
            checksum,
        )
        return events

    def _write_head(self, first_seq: int, base: bytes, last_seq: int, checksum: bytes) -> None:
        head = _compute_head_checksum(self._owner, first_seq, base, last_seq, checksum)
        self._connection.execute(
            "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?, ?)",
            (self._owner, first_seq, base, last_seq, head),
        )

    @contextmanager
    def _transaction(self, *, is_signing: bool = False) -> Iterator[None]:
        """Commit what the block writes, or nothing. Raises IntegrityError or JournalFailed."""
        connection = self._connection
        try:
            with self._busy:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                if is_signing:
                    # SQLite cuts the write-ahead file at its first bad byte without an error, so
                    # signed records must not stay in it.
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise make_write_failure(error, "the journal") from error


@contextmanager
def open_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for this process alone, 0600, every commit on disk when it returns.

    Raises ConfigError if another process has it, JournalCorrupt if it is no database and
    JournalFailed if the disk is full.
    """
    with _lock(path.with_name(path.name + ".lock")):
        os.close(open_private(path))
        if 0 < path.stat().st_size < SQLITE_HEADER_SIZE:
            # SQLite would take so short a file for an empty one and start afresh.
            raise JournalCorrupt("the journal is cut off in its first bytes")
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
            try:
                db.execute("PRAGMA journal_mode = WAL").fetchone()
                db.execute("PRAGMA synchronous = FULL")
            except (sqlite3.DatabaseError, ValueError) as error:
                raise _make_read_failure(error) from error
            # Closing it twice does no harm.
            yield db


def _make_read_failure(error: Exception) -> JournalCorrupt | JournalFailed:
    if is_disk_full(error):
        return make_write_failure(error, "the journal")
    return JournalCorrupt(f"the journal cannot be read: {error}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = open_private(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another process uses this journal",
                "stop the other node, or give this one its own data directory",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _compute_row_checksum(seq: int, event: Event, previous: bytes) -> bytes:
    header = _ROW_HEADER.pack(seq, event.epoch, event.type.value)
    slot = (event.slot or "").encode()
    parts = (_ROW_TAG, previous, header, len(slot).to_bytes(2, "little"), slot, event.payload)
    return hashlib.sha256(b"".join(parts)).digest()


def _compute_head_checksum(
    owner: bytes, first_seq: int, base: bytes, last_seq: int, checksum: bytes
) -> bytes:
    numbers = struct.pack("<QQII", first_seq, last_seq, len(owner), len(base))
    return hashlib.sha256(_HEAD_TAG + numbers + owner + base + checksum).digest()


def _compute_report_checksum(epoch: int, body: bytes) -> bytes:
    return hashlib.sha256(_REPORT_TAG + struct.pack("<q", epoch) + body).digest()
