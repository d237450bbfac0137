"""The monitor's history: one SQLite file of its own, bounded in epochs and bytes.

It is for people: no duty reads it, so a file that cannot be used is replaced, and a write that
fails is logged once and costs nothing else. One thread has it at a time.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from subnet.errors import ConfigError
from subnet.monitor.documents import EpochRecord, History
from subnet.monitor.epochs import make_history

FILE = "monitor.sqlite"
SCHEMA = 1
MAX_EPOCHS = 1024
DEFAULT_MAX_BYTES = 64 << 20
PAGE_SIZE = 4096
MAX_RECORD_BYTES = 16 << 20
"""One epoch's record as JSON; 1,000 nodes take a fiftieth of it."""
_BUSY_S = 2.0

logger = structlog.get_logger(__name__)


class HistoryFile:
    """Epoch records by number, the newest ones. Made by ``open_history``."""

    def __init__(self, connection: sqlite3.Connection, *, max_bytes: int) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._is_failing = False

    def write(self, record: EpochRecord) -> None:
        """Keep a record in place of the epoch's earlier one, and drop the oldest beyond the limit.

        Never raises for the file's sake.
        """
        body = zlib.compress(record.model_dump_json().encode(), 6)
        try:
            with self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO epochs (epoch, body) VALUES (?, ?)",
                    (record.epoch, body),
                )
                self._prune()
        except sqlite3.Error as error:
            if not self._is_failing:
                logger.warning("the monitor's history cannot be written", reason=str(error))
            self._is_failing = True
        else:
            self._is_failing = False

    def read(self, epoch: int) -> EpochRecord | None:
        """Return the record of an epoch; None if it is not kept or cannot be read."""
        rows = self._select("SELECT body FROM epochs WHERE epoch = ?", (epoch,))
        return _decode(rows[0][0]) if rows else None

    def read_last(self, count: int) -> tuple[EpochRecord, ...]:
        """Return the newest ``count`` records, ascending by epoch."""
        rows = self._select("SELECT body FROM epochs ORDER BY epoch DESC LIMIT ?", (count,))
        records = (_decode(row[0]) for row in reversed(rows))
        return tuple(record for record in records if record is not None)

    def list_epochs(self) -> tuple[int, ...]:
        """Return the epochs that are kept, ascending."""
        return tuple(row[0] for row in self._select("SELECT epoch FROM epochs ORDER BY epoch", ()))

    def read_tables(self, count: int) -> History:
        """Return the newest ``count`` records as the page draws them."""
        kept = self.list_epochs()
        return make_history(self.read_last(count), oldest=kept[0] if kept else None)

    def _select(self, query: str, values: tuple[int, ...]) -> list[tuple[Any]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            logger.warning("the monitor's history cannot be read", reason=str(error))
            return []

    def _prune(self) -> None:
        (newest, used) = self._connection.execute(
            "SELECT MAX(epoch), SUM(LENGTH(body)) FROM epochs"
        ).fetchone()
        self._connection.execute("DELETE FROM epochs WHERE epoch <= ?", (newest - MAX_EPOCHS,))
        # A third is left for pages that are not full and for the file's own tables.
        budget = self._max_bytes * 2 // 3
        rows = self._connection.execute("SELECT epoch, LENGTH(body) FROM epochs ORDER BY epoch")
        oldest = rows.fetchall()[:-1] if used > budget else []
        for epoch, size in oldest:
            if used <= budget:
                break
            self._connection.execute("DELETE FROM epochs WHERE epoch = ?", (epoch,))
            used -= size


@contextmanager
def open_history(
    path: Path | None, *, network_id: bytes, max_bytes: int = DEFAULT_MAX_BYTES
) -> Iterator[HistoryFile]:
    """Open the history of one network; None keeps it in memory.

    A file of another network or schema, or one that is damaged, is replaced by an empty one.
    Raises ConfigError if the folder cannot be written.
    """
    try:
        connection = _open(path, network_id, max_bytes)
    except sqlite3.Error as error:
        raise ConfigError(
            f"the monitor's history {path} cannot be opened: {error}",
            "free the disk or choose a data folder that can be written",
        ) from error
    try:
        yield HistoryFile(connection, max_bytes=max_bytes)
    finally:
        connection.close()


def _open(path: Path | None, network_id: bytes, max_bytes: int) -> sqlite3.Connection:
    if path is None:
        return _connect(":memory:", network_id, max_bytes)
    try:
        return _connect(str(path), network_id, max_bytes)
    except (sqlite3.DatabaseError, _Foreign) as error:
        if not isinstance(error, _Foreign) and isinstance(error, sqlite3.OperationalError):
            raise
        logger.warning("the monitor's history starts anew", reason=str(error), path=str(path))
        path.unlink(missing_ok=True)
        return _connect(str(path), network_id, max_bytes)


class _Foreign(Exception):
    """The file holds another network, or another schema."""


def _connect(name: str, network_id: bytes, max_bytes: int) -> sqlite3.Connection:
    if name != ":memory:":
        # SQLite would create it readable for all.
        Path(name).touch(mode=0o600, exist_ok=True)
    connection = sqlite3.connect(name, timeout=_BUSY_S, check_same_thread=False)
    try:
        _prepare(connection, network_id, max_bytes)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, network_id: bytes, max_bytes: int) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute("PRAGMA auto_vacuum = FULL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA max_page_count = {max(16, max_bytes // PAGE_SIZE)}")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS about (schema INTEGER, network BLOB)")
        connection.execute("CREATE TABLE IF NOT EXISTS epochs (epoch INTEGER PRIMARY KEY, body)")
        about = connection.execute("SELECT schema, network FROM about").fetchone()
        if about is None:
            connection.execute("INSERT INTO about VALUES (?, ?)", (SCHEMA, network_id))
        elif about != (SCHEMA, network_id):
            raise _Foreign("it is of another network or version")
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the file is damaged")


def _decode(body: bytes) -> EpochRecord | None:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, MAX_RECORD_BYTES)
        if inflater.unconsumed_tail:
            raise ValueError("a record is too large")
        return EpochRecord.model_validate_json(text)
    except (zlib.error, ValueError, TypeError, ValidationError) as error:
        logger.warning("a row of the monitor's history makes no sense", reason=str(error)[:200])
        return None
