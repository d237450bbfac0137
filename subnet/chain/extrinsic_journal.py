"""A journal of signed extrinsics on disk, so that none is lost or repeated after a crash.

An extrinsic is written down before it is sent. After a crash the next process finds it
here, looks for it on the chain, and sends the very same bytes again if they may still
land. It is settled once its block is finalised, or once it can land no more; settled ones
are deleted KEPT_EPOCHS later.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from consensus.types import BlockNumber
from subnet.chain.extrinsics import SignedExtrinsic
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.interfaces import ExtrinsicReceipt
from subnet.errors import ExtrinsicFailed, JournalCorrupt
from subnet.journal.disk import is_disk_full, make_write_failure, migrate, open_private

SCHEMA_VERSION = 2
MAX_LISTED = 1000
KEPT_EPOCHS = 8

_COLUMNS = "call, sender, nonce, data, since, until, state, reason, block_hash, block_number"
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
# Every epoch asks for the few open ones, and deletes the oldest of the others.
_INDEX = "CREATE INDEX IF NOT EXISTS extrinsics_by_state ON extrinsics (state, until)"
_STEPS = {0: (_SCHEMA,), 1: (_INDEX,)}
"""Statements that leave a version; a new file has version 0."""


class ExtrinsicState(Enum):
    """What is known of an extrinsic."""

    SIGNED = "signed"
    """Written down; it may have been sent, and may have landed."""
    INCLUDED = "included"
    """A block holds it; ``reason`` tells whether it failed there."""
    FINALISED = "finalised"
    DROPPED = "dropped"
    """It can land no more."""


_OPEN = (ExtrinsicState.SIGNED, ExtrinsicState.INCLUDED)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One extrinsic and what is known of it."""

    extrinsic: SignedExtrinsic
    state: ExtrinsicState
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
        # SQLite would create the file, and its log beside it, readable by every user.
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
            f"INSERT OR IGNORE INTO extrinsics (hash, {_COLUMNS})"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
            (extrinsic.extrinsic_hash, *astuple(extrinsic), ExtrinsicState.SIGNED.value),
        )

    def record_included(
        self, extrinsic: SignedExtrinsic, receipt: ExtrinsicReceipt, *, reason: str | None
    ) -> None:
        self._update(
            extrinsic,
            state=ExtrinsicState.INCLUDED.value,
            reason=reason,
            block_hash=receipt.block_hash,
            block_number=receipt.block_number,
        )

    def record_dropped(self, extrinsic: SignedExtrinsic, reason: str) -> None:
        self._update(extrinsic, state=ExtrinsicState.DROPPED.value, reason=reason)

    def record_finalised(self, extrinsic: SignedExtrinsic) -> None:
        """Its block can be undone no more."""
        self._update(extrinsic, state=ExtrinsicState.FINALISED.value)

    def delete_settled(self, before: int) -> None:
        """Delete the settled ones that could land only before block ``before``."""
        self._execute(
            "DELETE FROM extrinsics WHERE state IN (?, ?) AND until < ?",
            (ExtrinsicState.FINALISED.value, ExtrinsicState.DROPPED.value, before),
        )

    def list_entries(self, *states: ExtrinsicState) -> tuple[JournalEntry, ...]:
        """Return the latest entries in these states, the oldest first."""
        marks = ", ".join("?" * len(states))
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM extrinsics WHERE state IN ({marks})"
                " ORDER BY rowid DESC LIMIT ?",
                (*(state.value for state in states), MAX_LISTED),
            ).fetchall()
        return tuple(
            JournalEntry(SignedExtrinsic(*row[:6]), ExtrinsicState(row[6]), *row[7:])
            for row in reversed(rows)
        )

    def _update(self, extrinsic: SignedExtrinsic, **values: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        self._execute(
            f"UPDATE extrinsics SET {columns} WHERE hash = ?",
            (*values.values(), extrinsic.extrinsic_hash),
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
    What was settled KEPT_EPOCHS ago is deleted. ``chain`` was opened with ``log=journal``. Raises
    ChainUnavailable, JournalFailed.
    """
    if chain.sender.log is not journal:
        raise ValueError("the chain client writes to another journal")
    entries = await asyncio.to_thread(journal.list_entries, *_OPEN)
    if not entries:
        # What is old is deleted the next time that something is open.
        return ()
    finalised = await chain.fetch_finalised_number()
    kept_blocks = KEPT_EPOCHS * (await chain.fetch_info()).epoch_length
    await asyncio.to_thread(journal.delete_settled, finalised - kept_blocks)
    for entry in entries:
        if entry.block_number is None or entry.block_number <= finalised:
            await _settle_entry(chain, journal, entry)
    return await asyncio.to_thread(journal.list_entries, *_OPEN)


async def _settle_entry(
    chain: SubstrateChain, journal: ExtrinsicJournal, entry: JournalEntry
) -> None:
    if entry.block_number is not None:
        block = await chain.fetch_block(entry.block_number)
        if block.block_hash == entry.block_hash:
            await asyncio.to_thread(journal.record_finalised, entry.extrinsic)
            return
    # Of one that failed in its block, the sender writes down the reason.
    with suppress(ExtrinsicFailed):
        await chain.sender.resume(entry.extrinsic)
