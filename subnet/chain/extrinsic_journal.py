"""What this account signed and what became of it, on disk: nothing is lost, nothing repeated.

An extrinsic is written down before it is sent. After a crash the next process finds it
here, looks for it on the chain, and sends the very same bytes again if they may still
land. It is settled once its block is finalised, or once it can land no more.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from consensus.types import BlockNumber
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.interfaces import Receipt
from subnet.errors import ExtrinsicFailed, JournalCorrupt
from subnet.journal.disk import is_disk_full, make_write_failure, migrate, open_private

if TYPE_CHECKING:
    from subnet.chain.session import SignedExtrinsic

SCHEMA_VERSION = 1
MAX_LISTED = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS extrinsics (
    hash BLOB PRIMARY KEY,
    call TEXT NOT NULL,
    sender BLOB NOT NULL,
    nonce INTEGER NOT NULL,
    data BLOB NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    block_hash BLOB,
    block_number INTEGER
) STRICT
"""
_STEPS = {0: (_SCHEMA,)}
"""Statements that leave a version; a new file has version 0."""


class State(Enum):
    """Where an extrinsic stands."""

    SIGNED = "signed"
    """Written down; it may have been sent, and may have landed."""
    INCLUDED = "included"
    """A block holds it; ``reason`` tells whether it failed there."""
    FINALISED = "finalised"
    DROPPED = "dropped"
    """It can land no more."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One extrinsic and what is known of it."""

    extrinsic: SignedExtrinsic
    state: State
    reason: str | None
    block_hash: bytes | None
    block_number: BlockNumber | None


class ExtrinsicJournal:
    """An ExtrinsicLog in SQLite. Its methods block and may be called from any thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open or create the journal, readable by its owner only.

        Raises ConfigError, JournalCorrupt or JournalFailed.
        """
        # Before SQLite sees it: it would create the file, and its log beside it, for everybody.
        os.close(open_private(path))
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                # An entry must outlive a power cut, since the extrinsic does.
                db.execute("PRAGMA synchronous = FULL")
                migrate(db, what=str(path), newest=SCHEMA_VERSION, steps=_STEPS)
            except sqlite3.DatabaseError as error:
                if is_disk_full(error):
                    raise make_write_failure(error, str(path)) from error
                raise JournalCorrupt(f"{path} is not a journal of extrinsics: {error}") from error
            yield cls(db)

    def record_signed(self, extrinsic: SignedExtrinsic) -> None:
        self._execute(
            "INSERT OR IGNORE INTO extrinsics"
            " (hash, call, sender, nonce, data, since, until, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                extrinsic.extrinsic_hash,
                extrinsic.call,
                extrinsic.sender,
                extrinsic.nonce,
                extrinsic.data,
                extrinsic.since,
                extrinsic.until,
                State.SIGNED.value,
            ),
        )

    def record_included(
        self, extrinsic: SignedExtrinsic, receipt: Receipt, *, reason: str | None
    ) -> None:
        self._execute(
            "UPDATE extrinsics SET state = ?, reason = ?, block_hash = ?, block_number = ?"
            " WHERE hash = ?",
            (
                State.INCLUDED.value,
                reason,
                receipt.block_hash,
                receipt.block_number,
                extrinsic.extrinsic_hash,
            ),
        )

    def record_dropped(self, extrinsic: SignedExtrinsic, reason: str) -> None:
        self._execute(
            "UPDATE extrinsics SET state = ?, reason = ? WHERE hash = ?",
            (State.DROPPED.value, reason, extrinsic.extrinsic_hash),
        )

    def record_finalised(self, extrinsic: SignedExtrinsic) -> None:
        """Its block can be undone no more."""
        self._execute(
            "UPDATE extrinsics SET state = ? WHERE hash = ?",
            (State.FINALISED.value, extrinsic.extrinsic_hash),
        )

    def list_entries(self, *states: State) -> tuple[JournalEntry, ...]:
        """Return the latest entries in these states, the oldest first."""
        from subnet.chain.session import SignedExtrinsic

        marks = ", ".join("?" * len(states))
        with self._lock:
            rows = self._connection.execute(
                "SELECT call, sender, nonce, data, since, until, state, reason, block_hash,"
                f" block_number FROM extrinsics WHERE state IN ({marks})"
                " ORDER BY rowid DESC LIMIT ?",
                (*(state.value for state in states), MAX_LISTED),
            ).fetchall()
        return tuple(
            JournalEntry(
                extrinsic=SignedExtrinsic(*row[:6]),
                state=State(row[6]),
                reason=row[7],
                block_hash=row[8],
                block_number=None if row[9] is None else BlockNumber(row[9]),
            )
            for row in reversed(rows)
        )

    def _execute(self, statement: str, values: Sequence[object]) -> None:
        with self._lock:
            try:
                self._connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                raise make_write_failure(error, "the journal of extrinsics") from error


async def settle(chain: SubstrateChain, journal: ExtrinsicJournal) -> tuple[JournalEntry, ...]:
    """Follow up everything unsettled; return what is still open.

    What was signed is looked for, and sent again while it may land. What a block holds is
    marked once that block is final; if another block took its place, it is looked for anew.
    ``chain`` was opened with ``log=journal``. Raises ChainUnavailable.
    """
    if chain.sender.log is not journal:
        raise ValueError("the chain client writes to another journal")
    finalised = await chain.fetch_finalised_number()
    for entry in journal.list_entries(State.SIGNED, State.INCLUDED):
        if entry.block_number is None or entry.block_number <= finalised:
            await _settle_entry(chain, journal, entry)
    return journal.list_entries(State.SIGNED, State.INCLUDED)


async def _settle_entry(
    chain: SubstrateChain, journal: ExtrinsicJournal, entry: JournalEntry
) -> None:
    if entry.block_number is not None:
        block = await chain.fetch_block(entry.block_number)
        if block.block_hash == entry.block_hash:
            journal.record_finalised(entry.extrinsic)
            return
    try:
        await chain.sender.resume(entry.extrinsic)
    except ExtrinsicFailed:
        # The sender has written down why; whoever asked for it is told by the journal.
        return
