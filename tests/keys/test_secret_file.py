"""A secret file is read if its owner alone can, or if an access list names this user alone."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from keys.errors import SecretFileExposed
from keys.secret_file import read_secret_file

ACL = "system.posix_acl_access"
ANY = 0xFFFFFFFF
OWNER, USER, GROUP_OF_FILE, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 65534


def make(path: Path, *entries: tuple[int, int, int]) -> Path:
    """Write a file with an access list; skip where the file system has none."""
    path.touch(mode=0o600)
    path.write_bytes(b"secret")
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, ACL, raw)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no access lists")
    return path


def test_a_credential_of_systemd_is_read_though_its_group_bits_show_the_mask(
    tmp_path: Path,
) -> None:
    path = make(
        tmp_path / "credential",
        (OWNER, 4, ANY),
        (USER, 4, os.geteuid()),
        (GROUP_OF_FILE, 0, ANY),
        (MASK, 4, ANY),
        (OTHER, 0, ANY),
    )
    assert path.stat().st_mode & 0o777 == 0o440
    assert read_secret_file(path, max_size=100) == b"secret"


@pytest.mark.parametrize(
    "open_to",
    [(USER, 4, NOBODY), (GROUP, 4, NOBODY), (GROUP_OF_FILE, 4, ANY), (OTHER, 4, ANY)],
)
def test_a_list_that_lets_another_one_in_is_refused(
    open_to: tuple[int, int, int], tmp_path: Path
) -> None:
    rest = {OWNER: (OWNER, 4, ANY), GROUP_OF_FILE: (GROUP_OF_FILE, 0, ANY)}
    rest |= {MASK: (MASK, 4, ANY), OTHER: (OTHER, 0, ANY)}
    entries = sorted({**rest, open_to[0]: open_to}.values())
    path = make(tmp_path / "credential", *entries)
    with pytest.raises(SecretFileExposed):
        read_secret_file(path, max_size=100)


def test_group_bits_without_a_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o440)
    with pytest.raises(SecretFileExposed, match="chmod 600"):
        read_secret_file(path, max_size=100)
