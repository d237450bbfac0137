"""The mark of a data folder: on which machine and file system its node last signed.

A node that finds its own mark knows that its journal is the one it wrote last. Any other folder
may be older than what the identity has signed since, on another machine.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from subnet.journal.journal import Journal

MARK_FILE = "identity-mark"
MAX_MARK_SIZE = 1024
MACHINE_FILE = Path("/etc/machine-id")
MAX_ID_SIZE = 64

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FolderMark:
    """Where and when the folder was marked.

    ``place`` is the mark's own file system and inode: a copy has another one. ``machine`` is
    the system's id, empty where it has none. ``restored`` is the stamp of a restored identity
    (keys/backup.py) that the node has listened for; None without one.
    """

    place: str
    machine: str
    restored: str | None


def make_mark(path: Path, *, restored: str | None) -> FolderMark:
    """Return the mark that is right here and now for the file ``path``. Raises OSError."""
    # Fresh disks number their files alike, so the inode alone does not tell two of them apart.
    place = f"{os.statvfs(path).f_fsid} {path.stat().st_ino}"
    return FolderMark(place, _read_id(MACHINE_FILE), restored)


def read_mark(data_dir: Path) -> FolderMark | None:
    """Return the folder's mark; None if there is none that can be read."""
    try:
        with (data_dir / MARK_FILE).open("rb") as file:
            body = json.loads(file.read(MAX_MARK_SIZE))
        mark = FolderMark(**body)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (mark.place, mark.machine, mark.restored or "")
    return mark if all(isinstance(text, str) for text in texts) else None


def mark_folder(data_dir: Path, *, restored: str | None = None) -> None:
    """Mark ``data_dir`` as this node's own. A mark that cannot be written costs the next wait."""
    path = data_dir / MARK_FILE
    try:
        path.touch(mode=0o600)
        path.write_bytes(json.dumps(asdict(make_mark(path, restored=restored))).encode())
    except OSError as error:
        logger.warning("the data folder is not marked", reason=error.strerror)


def find_reason_to_listen(
    data_dir: Path, *, restored: str | None, had_journal: bool, journal: Journal
) -> str | None:
    """Return why the identity may have signed elsewhere since the journal was written.

    ``had_journal``: whether the folder had a journal before this process opened it. None for the
    folder's own node, and for a folder without mark whose journal has no own record: only the
    network and the chain know whether that identity is new.
    """
    mark = read_mark(data_dir)
    if restored is not None and (mark is None or mark.restored != restored):
        return "its identity was restored from a backup"
    if mark is None:
        is_used = had_journal and bool(journal.own_records)
        return "its data folder has a journal and no mark of its own" if is_used else None
    try:
        own = make_mark(data_dir / MARK_FILE, restored=restored)
    except OSError:
        return "the mark of its data folder cannot be read"
    if not had_journal:
        return "the journal of its data folder is missing"
    if mark.place != own.place:
        return "its data folder is a copy, or was restored from one"
    if mark.machine != own.machine:
        return "its data folder comes from another machine"
    return None


def _read_id(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ID_SIZE).decode("ascii", "replace").strip()
    except OSError:
        return ""
