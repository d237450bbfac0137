"""Replaces small files of a data folder as a whole: a reader sees the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

LEFTOVER_SUFFIX = ".new"
"""A process that dies while it writes leaves this behind; the next writing takes its place."""


def replace_private_file(path: Path, content: bytes, *, is_durable: bool) -> None:
    """Replace a file that its owner alone may read. Raises OSError.

    With ``is_durable`` it outlives a power failure, which costs a wait for the disk; without, one
    may leave an empty file.
    """
    new = path.with_name(path.name + LEFTOVER_SUFFIX)
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
