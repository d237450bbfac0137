"""Private files on disk: opening them, their schema versions, and naming a full disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from subnet.errors import ConfigError, JournalCorrupt, JournalFailed

_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
"""How SQLite names a full disk: at a write, and when it makes the index of the write-ahead file."""


def open_private(path: Path) -> int:
    """Open or create a file with mode 0600 and return its descriptor; links are not followed.

    Raises ConfigError or JournalFailed.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor
    except OSError as error:
        if is_disk_full(error):
            raise make_write_failure(error, str(path)) from error
        raise ConfigError(
            f"{path} cannot be opened: {error.strerror}",
            "choose a data directory that this user may write",
        ) from error


def is_disk_full(error: Exception) -> bool:
    """Return whether the operating system or SQLite found no space on the disk."""
    number, name = getattr(error, "errno", None), getattr(error, "sqlite_errorname", None)
    return number == errno.ENOSPC or name in _FULL


def make_write_failure(error: Exception, what: str) -> JournalFailed:
    """Return what to raise when ``what`` could not be written."""
    if is_disk_full(error):
        return JournalFailed(
            f"the disk is full: {what} could not be written",
            "free some space on the disk of --data-dir, then start it again",
        )
    return JournalFailed(f"{what} could not be written: {error}")


def migrate(
    connection: sqlite3.Connection,
    *,
    what: str,
    newest: int,
    steps: Mapping[int, Sequence[str]],
) -> None:
    """Bring a file to version ``newest``; ``steps`` holds the statements that leave a version.

    Raises JournalCorrupt for a version from which no step leads here, such as a newer one.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    while version in steps:
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*steps[version], f"PRAGMA user_version = {version + 1}", "COMMIT"):
            connection.execute(statement)
        version += 1
    if version != newest:
        raise JournalCorrupt(
            f"{what} is of version {version}, and this program knows version {newest}",
            "run the release that wrote it, or give another --data-dir",
        )
