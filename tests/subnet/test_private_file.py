"""A private file is there as a whole or not at all, whatever happens while it is replaced."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from subnet import private_file
from subnet.private_file import LEFTOVER_SUFFIX, replace_private_file


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_file_is_replaced_and_its_owners_alone(tmp_path: Path, is_durable: bool) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        replace_private_file(path, content, is_durable=is_durable)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_leftover_of_a_dead_process_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    leftover = tmp_path / f"file{LEFTOVER_SUFFIX}"
    # As an attacker would have it: written through, it would change another file.
    (tmp_path / "other").write_bytes(b"other")
    leftover.symlink_to(tmp_path / "other")
    replace_private_file(path, b"new", is_durable=False)
    assert path.read_bytes() == b"new" and not path.is_symlink()
    assert (tmp_path / "other").read_bytes() == b"other"


def test_a_full_disk_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    replace_private_file(path, b"old", is_durable=True)
    monkeypatch.setattr(private_file.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        replace_private_file(path, b"new", is_durable=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
