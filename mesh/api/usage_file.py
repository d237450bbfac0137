"""What each API key used on each day: one SQLite file, bounded in days, for its owner only.

One thread has it at a time. Several gateways may share a file: each adds what it counted.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from mesh.api.errors import UsageFileUnusable

SUFFIX = ".usage.sqlite"
KEPT_DAYS = 400
"""With MAX_KEYS keys these are at most 410,000 rows, some 20 MB."""
SECONDS_PER_DAY = 86_400
_APPLICATION_ID = 0x4D455355
_BUSY_S = 2.0
_FIELDS = "requests, prompt_tokens, completion_tokens"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS usage (name TEXT NOT NULL, day INTEGER NOT NULL, "
    "requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, "
    "completion_tokens INTEGER NOT NULL, PRIMARY KEY (name, day)) STRICT, WITHOUT ROWID"
)
_ADD = (
    f"INSERT INTO usage (name, day, {_FIELDS}) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (name, day) DO UPDATE SET requests = requests + excluded.requests, "
    "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = completion_tokens + excluded.completion_tokens"
)


class KeyUsage(NamedTuple):
    """Counts of one key on one day."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """What counts against a budget."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: KeyUsage) -> KeyUsage:
        """Return the sum."""
        return KeyUsage(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))


NOTHING_USED = KeyUsage()
Place = tuple[str, int]
"""A key's name and a day, counted in days of UTC since 1970."""


def compute_day(unix_s: float) -> int:
    """Return the day of a time."""
    return int(unix_s // SECONDS_PER_DAY)


def locate_usage(keys_file: Path) -> Path:
    """Return where the usage of a file's keys is kept, unless it is told otherwise."""
    return keys_file.with_name(keys_file.name + SUFFIX)


class UsageFile:
    """Opened at the first use, and again after a failure. Methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def add(
        self, counted: Mapping[Place, KeyUsage], *, today: int
    ) -> tuple[int, dict[str, KeyUsage]]:
        """Add counts, drop old days; return the day, and what each key used on it.

        Raises OSError, sqlite3.Error or UsageFileUnusable; nothing was added then.
        """
        try:
            if self._connection is None:
                self._connection = _open(self.path)
            return today, self._add(self._connection, counted, today)
        except sqlite3.Error:
            self.close()
            raise

    def _add(
        self, connection: sqlite3.Connection, counted: Mapping[Place, KeyUsage], today: int
    ) -> dict[str, KeyUsage]:
        query = f"SELECT name, {_FIELDS} FROM usage WHERE day = ?"
        rows = [(*place, *used) for place, used in counted.items()]
        with connection:
            if rows:
                connection.executemany(_ADD, rows)
                connection.execute("DELETE FROM usage WHERE day <= ?", (today - KEPT_DAYS,))
            # Within the transaction: what was added is counted once, whatever goes wrong after.
            return {name: KeyUsage(*used) for name, *used in connection.execute(query, (today,))}

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read_usage(path: Path) -> dict[Place, KeyUsage]:
    """Return everything that a file holds, by name and day; a gateway may be writing it.

    Raises UsageFileUnusable.
    """
    if not path.exists():
        raise UsageFileUnusable(f"there is no file of usage {path}")
    query = f"SELECT name, day, {_FIELDS} FROM usage ORDER BY day, name"
    try:
        # Not mode=ro: what a killed gateway had begun to write is rolled back by the next reader.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            rows: Iterable[tuple[str, int, int, int, int]] = connection.execute(query)
            return {(name, day): KeyUsage(*counts) for name, day, *counts in rows}
    except sqlite3.Error as error:
        raise UsageFileUnusable(f"the file of usage {path} cannot be read: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    # SQLite would create it readable for all.
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UsageFileUnusable(f"{path} is not a regular file")
    if status.st_mode & 0o077:
        raise UsageFileUnusable(f"{path} is open to other users; run: chmod 600 {path}")
    connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the table, or check what is there: budgets depend on it, so it is never replaced."""
    try:
        (known,) = connection.execute("PRAGMA application_id").fetchone()
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        if tables and known != _APPLICATION_ID:
            raise UsageFileUnusable(f"{path} is a database of something else")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise UsageFileUnusable(f"the file of usage {path} is damaged; move it away")
        with connection:
            if not tables:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(_SCHEMA)
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise UsageFileUnusable(f"the file of usage {path} is damaged; move it away") from error
