"""The disk under one node's journal: writes that fail, and power that goes in the middle of one.

The journal is opened as production opens it, on a real file. What a dying machine leaves behind is
a copy of the file and of SQLite's write-ahead file, taken in the middle of a statement, of which
only a part has reached the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from subnet.journal.log import open_connection
from subnet.simulation.crash import Killed, Switch

T = TypeVar("T")
MAX_STATEMENTS = 12
"""A fault waits for one of so many statements that write."""
_CHECKPOINT = "PRAGMA wal_checkpoint"
_WRITING = ("BEGIN", "INSERT", "DELETE", "COMMIT", _CHECKPOINT)
_ERRORS = (("SQLITE_IOERR_WRITE", "disk I/O error"), ("SQLITE_FULL", "database or disk is full"))


class SimDisk:
    """One journal file. ``note`` counts what the disk did."""

    def __init__(self, path: Path, *, random: Random, note: Callable[[str], None]) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._random = random
        self._note = note
        self._fault: str | None = None
        self._statements_left = 0
        self._left_behind: tuple[bytes, bytes] | None = None
        self.has_failed = False
        """Whether a write was refused in this life of the process."""

    def arm(self, fault: str) -> None:
        """Let one of the next statements fail: ``torn`` or ``error``."""
        self._fault = fault
        self._statements_left = self._random.randrange(1, 1 + MAX_STATEMENTS)

    def disarm(self) -> None:
        self._fault = None

    @contextmanager
    def open(self, switch: Switch) -> Iterator[tuple[sqlite3.Connection, Any]]:
        """Yield the file's connection, and the faulty one for the journal, for one life."""
        self.has_failed = False
        self._left_behind = None
        with open_connection(self._path) as connection:
            try:
                yield connection, _FaultyConnection(connection, self, switch)
            finally:
                # Closing it would write what a killed process never writes.
                files = self._left_behind or self._read()
        self._path.write_bytes(files[0])
        self._wal.write_bytes(files[1])

    def execute(self, statement: str, run: Callable[[], T], switch: Switch) -> T:
        """Run one statement, or what is left of it. Raises Killed or sqlite3.OperationalError."""
        if self._fault is None or not statement.startswith(_WRITING):
            return run()
        self._statements_left -= 1
        if self._statements_left > 0:
            return run()
        fault, self._fault = self._fault, None
        if fault == "torn":
            self._tear(statement, run, switch)
        return self._fail(run)

    def _tear(self, statement: str, run: Callable[[], object], switch: Switch) -> None:
        """Lose power when a part of what the statement writes is on disk, in its order."""
        (file, wal), _ = self._read(), run()
        new_file, new_wal = self._read()
        part = min(1.0, 1.2 * self._random.random())
        if statement.startswith(_CHECKPOINT):
            # The write-ahead file is cut off only after the other one is whole.
            cut = int(part * len(new_file))
            file = new_file[:cut] + file[cut:]
        else:
            wal = new_wal[: len(wal) + int(part * (len(new_wal) - len(wal)))]
        self._left_behind = file, wal
        self._note("torn-writes")
        switch.is_dead, switch.last = True, f"while the disk wrote {statement.split()[0]}"
        raise Killed(switch.last)

    def _fail(self, run: Callable[[], T]) -> T:
        """Refuse a statement; now and then it took effect all the same."""
        if self._random.random() < 0.5:
            run()
        self._note("disk-errors")
        self.has_failed = True
        name, text = self._random.choice(_ERRORS)
        error = sqlite3.OperationalError(text)
        error.sqlite_errorname = name
        raise error

    def _read(self) -> tuple[bytes, bytes]:
        wal = self._wal.read_bytes() if self._wal.exists() else b""
        return self._path.read_bytes(), wal


class _FaultyConnection:
    """What the journal uses of a connection, over a disk that may fail."""

    def __init__(self, inner: sqlite3.Connection, disk: SimDisk, switch: Switch) -> None:
        self._inner = inner
        self._disk = disk
        self._switch = switch

    @property
    def in_transaction(self) -> bool:
        return self._inner.in_transaction

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self._disk.execute(
            statement, lambda: self._inner.execute(statement, parameters), self._switch
        )

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        return self._disk.execute(
            statement, lambda: self._inner.executemany(statement, rows), self._switch
        )
