"""Secret files: created with mode 0600, never overwritten, not read if other users could.

The mode is part of the creation, not a ``chmod`` after it: between the two,
another user of the machine could open the file.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from keys.errors import KeyFileExists, SecretFileExposed

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ACL = "system.posix_acl_access"
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER_OBJ, _ACL_USER, _ACL_MASK = 0x01, 0x02, 0x10


def check_absent(path: Path) -> None:
    """Raise KeyFileExists if anything stands at ``path``, a dangling link included."""
    if os.path.lexists(path):
        raise KeyFileExists(f"{path} exists, and a key file is never overwritten")


def create_secret_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and wait until the disk has it and its name.

    Missing directories are created with mode 0700. Raises KeyFileExists, or
    OSError if the disk refuses; a file that could not be completed is removed.
    """
    _create_directory(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, _FILE_MODE)
    except FileExistsError as error:
        raise KeyFileExists(f"{path} exists, and a key file is never overwritten") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    _sync_directory(path.parent)


def read_secret_file(path: Path, *, max_size: int) -> bytes:
    """Return at most ``max_size + 1`` bytes of a regular file that only its owner can use.

    One byte more than the limit lets the caller see that the file is too long.
    Raises SecretFileExposed, or OSError if there is no readable regular file.
    """
    # Not blocking: a named pipe at this path would otherwise hang the start of a node.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        # Asked of the open file, so that no other process can swap it between check and read.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_mode & _OTHERS and not _is_open_to_us_alone(file.fileno(), status):
            raise SecretFileExposed(path, mode=stat.S_IMODE(status.st_mode))
        return file.read(max_size + 1)


def _is_open_to_us_alone(descriptor: int, status: os.stat_result) -> bool:
    """Whether an access list explains the group's bits, and names only this process's user.

    systemd gives a service its credentials so: the file is root's, the list names the service's
    user, and the bits of the group show the list's mask.
    """
    if status.st_mode & stat.S_IRWXO or not hasattr(os, "getxattr"):
        return False
    try:
        raw = os.getxattr(descriptor, _ACL)
    except OSError:
        return False
    entries = raw.removeprefix(_ACL_VERSION)
    if len(entries) == len(raw) or len(entries) % _ACL_ENTRY.size:
        return False
    return all(
        tag in (_ACL_USER_OBJ, _ACL_MASK) or not rights or (tag, user) == (_ACL_USER, os.geteuid())
        for tag, rights, user in _ACL_ENTRY.iter_unpack(entries)
    )


def _create_directory(directory: Path) -> None:
    missing = [directory, *directory.parents]
    for ancestor in reversed([path for path in missing if not path.exists()]):
        with suppress(FileExistsError):
            ancestor.mkdir(mode=_DIRECTORY_MODE)
            _sync_directory(ancestor.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
