"""What the journals of a network held at any time: versions of records, and commits that open."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from consensus.audit import draw_layers
from consensus.challenge import ModelShape
from consensus.commitment import check_audit_reveal, check_output_reveal, make_commit_context
from consensus.errors import CommitmentMismatch
from consensus.protocol_params import MAINNET
from consensus.records import (
    RecordKind,
    decode_audit_commit,
    decode_audit_reveal,
    decode_output_commit,
    decode_output_reveal,
)
from consensus.types import Role
from keys.envelope import Envelope, decode_envelope
from subnet.journal.codec import decode_timed_record
from subnet.journal.journal import JOURNAL_FILE
from subnet.journal.log import EventType
from subnet.operator.control import CONTROL_SOCKET

READ_ATTEMPTS = 20
RETRY_S = 0.1
COMMITS = {
    Role.HOSTER: (RecordKind.OUTPUT_COMMIT, RecordKind.OUTPUT_REVEAL),
    Role.VALIDATOR: (RecordKind.AUDIT_COMMIT, RecordKind.AUDIT_REVEAL),
}
"""What a node of a role commits to in each epoch, and what opens it."""

_RECORDS = (EventType.SIGNED.value, EventType.SIGHTED.value, EventType.FETCHED.value)


class JournalWatch:
    """Collects records from the journals of running, stopped and killed nodes.

    Rows of old epochs are pruned, so the journals are read again and again; what was seen once is
    kept here. ``versions`` holds the distinct bytes that any journal had for (node, kind, epoch).
    """

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self.versions: defaultdict[tuple[int, RecordKind, int], set[bytes]] = defaultdict(set)
        self._signed: dict[tuple[int, RecordKind, int], Envelope] = {}

    def read(self, data_dir: Path) -> None:
        """Take in the journal below ``data_dir``; there is none before a node's first start.

        Raises sqlite3.DatabaseError if no consistent copy can be had.
        """
        for path in data_dir.glob(f"*/{JOURNAL_FILE}"):
            for event, envelope in _read_records(path):
                slot = (envelope.node_id, RecordKind(envelope.kind), envelope.epoch)
                self.versions[slot].add(envelope.to_bytes())
                if event is EventType.SIGNED:
                    self._signed[slot] = envelope

    def list_doubled(self, node_id: int, epoch: int) -> list[RecordKind]:
        """Return the kinds of which the node signed two versions for the epoch."""
        return [
            kind
            for (author, kind, of_epoch), found in self.versions.items()
            if (author, of_epoch) == (node_id, epoch) and len(found) > 1
        ]

    def is_committed_and_opened(self, node_id: int, role: Role, epoch: int) -> bool:
        """Return whether the node's journal held its commit for the epoch and what opens it."""
        commit_kind, reveal_kind = COMMITS[role]
        commit = self._signed.get((node_id, commit_kind, epoch))
        reveal = self._signed.get((node_id, reveal_kind, epoch))
        if commit is None or reveal is None:
            return False
        try:
            if role is Role.HOSTER:
                self._open_output(commit, reveal)
            else:
                self._open_audit(commit, reveal)
        except CommitmentMismatch:
            return False
        return True

    def _open_output(self, commit: Envelope, reveal: Envelope) -> None:
        said, opened = decode_output_commit(commit.body), decode_output_reveal(reveal.body)
        check_output_reveal(
            said.commitment,
            make_commit_context(commit),
            seed=said.seed,
            layers=opened.layers,
            salt=opened.salt,
            vectors=opened.vectors,
            num_layers=self._shape.num_layers,
        )

    def _open_audit(self, commit: Envelope, reveal: Envelope) -> None:
        said, opened = decode_audit_commit(commit.body), decode_audit_reveal(reveal.body)
        check_audit_reveal(
            said.commitment,
            make_commit_context(commit),
            draw=said.draw,
            salt=opened.salt,
            layers=draw_layers(said.draw, self._shape, MAINNET),
            vectors=opened.vectors,
        )


def list_signed(data_dir: Path) -> set[tuple[RecordKind, int]]:
    """Return kind and epoch of every record that the journal's owner signed."""
    return {
        (RecordKind(envelope.kind), envelope.epoch)
        for path in data_dir.glob(f"*/{JOURNAL_FILE}")
        for event, envelope in _read_records(path)
        if event is EventType.SIGNED
    }


def copy_files(data_dir: Path, target: Path) -> None:
    """Copy the data of a running node, as an operator's backup may."""
    for attempt in range(READ_ATTEMPTS):
        try:
            # A socket has nothing to copy.
            shutil.copytree(data_dir, target, ignore=shutil.ignore_patterns(CONTROL_SOCKET))
            list_signed(target)
            return
        except (sqlite3.DatabaseError, OSError):
            if attempt == READ_ATTEMPTS - 1:
                raise
            shutil.rmtree(target, ignore_errors=True)
            time.sleep(RETRY_S)


def _read_records(path: Path) -> list[tuple[EventType, Envelope]]:
    """Read a copy, so that the node's own file stays as it is; it may change while it is copied."""
    for attempt in range(READ_ATTEMPTS):
        try:
            return list(_read_copy(path))
        except (sqlite3.DatabaseError, OSError):
            if attempt == READ_ATTEMPTS - 1:
                raise
            time.sleep(RETRY_S)
    raise AssertionError("unreachable")


def _read_copy(path: Path) -> Iterator[tuple[EventType, Envelope]]:
    with tempfile.TemporaryDirectory(prefix="journal-") as scratch:
        copy = Path(scratch) / path.name
        shutil.copyfile(path, copy)
        ahead = path.with_name(path.name + "-wal")
        if ahead.exists():
            shutil.copyfile(ahead, copy.with_name(ahead.name))
        with closing(sqlite3.connect(copy)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                return
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError("copied while it was written")
            rows = connection.execute(
                "SELECT type, payload FROM log WHERE type IN (?, ?, ?) ORDER BY seq", _RECORDS
            ).fetchall()
    for number, payload in rows:
        event = EventType(number)
        if event is EventType.SIGHTED:
            yield event, decode_timed_record(payload).envelope
        else:
            yield event, decode_envelope(payload)
