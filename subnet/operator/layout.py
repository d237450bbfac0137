"""The layout of a data folder: its version, and how an older folder becomes a present one.

A folder says its version in a file of its own. One of a newer release is refused, because what
that release keeps where is not known. An older one is upgraded in steps at the start of its
process, after its files were copied to ``before-layout-N`` beside them. A step may be repeated: a
process that dies in between starts it again. Schemas of single files have versions of their own.

Version 1 has no version file, and marks the folder by "file system, inode" in ``folder``.
Version 2 marks it in ``identity-mark``, with the machine (folder_mark.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from subnet.errors import ConfigError
from subnet.journal.journal import JOURNAL_FILE
from subnet.operator.folder_mark import mark_folder
from subnet.operator.preflight import make_private_directory
from subnet.operator.status import STATUS_FILE
from subnet.private_file import replace_private_file

LAYOUT_VERSION = 2
LAYOUT_FILE = "layout"
MAX_LAYOUT_SIZE = 16
BACKUP_PREFIX = "before-layout-"
PARTIAL_SUFFIX = ".partial"
_MARK_OF_1 = "folder"
_FILES_OF_1 = (_MARK_OF_1, JOURNAL_FILE, STATUS_FILE)
"""A folder of version 1 has one of them."""
_NOT_COPIED = (".lock", ".sock", "-shm")

logger = structlog.get_logger(__name__)


def prepare_folder(data_dir: Path) -> None:
    """Make the folder, or bring it to the present layout; the caller's process alone uses it.

    Raises ConfigError for a folder of a newer release, and one that cannot be upgraded.
    """
    version = check_folder(data_dir)
    if version is None:
        _write_layout(data_dir, LAYOUT_VERSION)
        return
    while version < LAYOUT_VERSION:
        _upgrade(data_dir, version)
        version += 1


def check_folder(data_dir: Path) -> int | None:
    """Make the folder if it is missing; return its version, None for a new one.

    Raises ConfigError for a folder of a newer release.
    """
    make_private_directory(data_dir)
    version = read_layout(data_dir)
    if version is not None and version > LAYOUT_VERSION:
        raise ConfigError(
            f"the data folder {data_dir} has layout {version}, and this program knows layout "
            f"{LAYOUT_VERSION}",
            "run the release that wrote it, or give another --data-dir",
        )
    return version


def read_layout(data_dir: Path) -> int | None:
    """Return the folder's version; None for a folder no process kept anything in.

    Raises ConfigError.
    """
    path = data_dir / LAYOUT_FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LAYOUT_SIZE).decode("ascii").strip()
        version = int(text) if text.isdecimal() else 0
    except FileNotFoundError:
        return 1 if any((data_dir / name).exists() for name in _FILES_OF_1) else None
    except (OSError, UnicodeDecodeError):
        version = 0
    if version < 1:
        raise ConfigError(
            f"{path} does not say the version of the data folder",
            f"write the number of its layout into it: {LAYOUT_VERSION}, if this release wrote it",
        )
    return version


def _upgrade(data_dir: Path, version: int) -> None:
    step = _STEPS.get(version)
    if step is None:
        raise ConfigError(
            f"the data folder {data_dir} has layout {version}, which this program cannot upgrade",
            "run the release before this one once, or give another --data-dir",
        )
    backup = data_dir / f"{BACKUP_PREFIX}{version + 1}"
    try:
        _copy_files(data_dir, backup)
        step(data_dir)
        _write_layout(data_dir, version + 1)
    except OSError as error:
        raise ConfigError(
            f"the data folder {data_dir} could not be upgraded: {error.strerror}",
            "free some space on its disk, then start the process again",
        ) from error
    logger.info(
        "the data folder was upgraded",
        data_dir=str(data_dir),
        layout=version + 1,
        backup=str(backup),
    )


def _copy_files(data_dir: Path, backup: Path) -> None:
    """Copy the folder's own files to ``backup``, unless an earlier attempt did. Raises OSError."""
    if backup.exists():
        return
    partial = backup.with_name(backup.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    for path in sorted(data_dir.iterdir()):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(_NOT_COPIED):
            shutil.copy2(path, partial / path.name)
    os.replace(partial, backup)


def _leave_1(data_dir: Path) -> None:
    """Replace the mark; one that is not the folder's own is dropped, and the node listens."""
    old = data_dir / _MARK_OF_1
    try:
        here = f"{os.statvfs(old).f_fsid} {old.stat().st_ino}"
        is_own = old.read_bytes()[:64].decode("ascii", "replace") == here
    except FileNotFoundError:
        return
    if is_own:
        mark_folder(data_dir)
    old.unlink()


def _write_layout(data_dir: Path, version: int) -> None:
    try:
        replace_private_file(data_dir / LAYOUT_FILE, f"{version}\n".encode(), is_durable=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the data folder {data_dir}: {error.strerror}",
            "free some space on its disk, or give another --data-dir",
        ) from error


_STEPS: Mapping[int, Callable[[Path], None]] = {1: _leave_1}
"""What leaves a version."""
