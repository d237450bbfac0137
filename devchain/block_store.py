"""A SQLite file with the chain's rules and blocks; replaying the blocks gives the state."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from devchain.blocks import Block
from devchain.errors import DevchainUnusable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL, extrinsics TEXT NOT NULL
);
"""


class BlockStore:
    """One SQLite file; every block is durable before clients hear of it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, private to its owner. Raises DevchainUnusable."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.DatabaseError) as error:
            raise DevchainUnusable(
                f"the chain database {path} cannot be used: {error}", "choose another file"
            ) from error

    def close(self) -> None:
        self._database.close()

    def remember(self, name: str, value: str) -> str:
        """Store ``value`` under ``name`` unless there is one; return what is stored."""
        query = "INSERT OR IGNORE INTO meta VALUES (?, ?)"
        self._database.execute(query, (name, value))
        with closing(self._database.execute("SELECT value FROM meta WHERE name = ?", (name,))) as c:
            return str(c.fetchone()[0])

    def append(self, block: Block) -> None:
        """Store one block."""
        extrinsics = json.dumps([raw.hex() for raw in block.extrinsics])
        row = (block.number, block.hash, extrinsics)
        self._database.execute("INSERT INTO blocks VALUES (?, ?, ?)", row)

    def count(self) -> int:
        """Return how many blocks are stored."""
        with closing(self._database.execute("SELECT count(*) FROM blocks")) as cursor:
            return int(cursor.fetchone()[0])

    def blocks(self) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
        """Yield hash and extrinsics of every block, oldest first."""
        query = "SELECT hash, extrinsics FROM blocks ORDER BY number"
        with closing(self._database.execute(query)) as cursor:
            for block_hash, extrinsics in cursor:
                yield block_hash, tuple(bytes.fromhex(raw) for raw in json.loads(extrinsics))
