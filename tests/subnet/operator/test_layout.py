"""A data folder of an earlier layout is upgraded with a backup; a later one is refused."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from subnet.errors import ConfigError
from subnet.journal.journal import JOURNAL_FILE
from subnet.operator import layout
from subnet.operator.folder_mark import MARK_FILE, make_mark, read_mark
from subnet.operator.layout import (
    BACKUP_PREFIX,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    check_folder,
    prepare_folder,
    read_layout,
)
from subnet.operator.status import STATUS_FILE

BACKUP = f"{BACKUP_PREFIX}2"
FILES_OF_1 = {JOURNAL_FILE: b"rows", f"{JOURNAL_FILE}-wal": b"more", STATUS_FILE: b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder as the first layout was: no version, and a mark of one line."""
    path = tmp_path / "1-2"
    path.mkdir(mode=0o700)
    for name, content in FILES_OF_1.items():
        (path / name).write_bytes(content)
    (path / f"{JOURNAL_FILE}.lock").touch()
    mark = path / "folder"
    mark.touch()
    mark.write_text(f"{os.statvfs(mark).f_fsid} {mark.stat().st_ino}")
    return path


def test_an_earlier_folder_is_upgraded_in_place_with_a_backup(folder: Path) -> None:
    old_mark = (folder / "folder").read_bytes()
    prepare_folder(folder)
    assert read_layout(folder) == LAYOUT_VERSION == 2
    kept = {path.name: path.read_bytes() for path in (folder / BACKUP).iterdir()}
    assert kept == FILES_OF_1 | {"folder": old_mark}
    assert stat.S_IMODE((folder / BACKUP).stat().st_mode) == 0o700
    assert {name: (folder / name).read_bytes() for name in FILES_OF_1} == FILES_OF_1
    assert read_mark(folder) == make_mark(folder / MARK_FILE, restored=None)
    assert not (folder / "folder").exists()


def test_a_copy_of_an_earlier_folder_is_upgraded_and_stays_foreign(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    prepare_folder(copy)
    assert read_layout(copy) == LAYOUT_VERSION and read_mark(copy) is None


def test_a_later_layout_is_refused_by_its_number_and_nothing_is_touched(folder: Path) -> None:
    (folder / LAYOUT_FILE).write_text("3\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for prepare in (check_folder, prepare_folder):
        with pytest.raises(ConfigError, match="has layout 3, and this program knows layout 2"):
            prepare(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"0", b"-1", b"two", b"\xff", b"9" * 40])
def test_a_version_that_is_none_is_refused_with_the_fix(folder: Path, content: bytes) -> None:
    (folder / LAYOUT_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="layout") as refused:
        prepare_folder(folder)
    assert refused.value.hint


def test_a_new_folder_has_the_present_layout_and_no_backup(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "1-2"
    assert check_folder(folder) is None
    (folder / "extrinsics.sqlite").touch()
    for _ in range(2):
        prepare_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["extrinsics.sqlite", LAYOUT_FILE]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("dies_in", ["copy", "step", "version"])
def test_an_upgrade_that_died_is_finished_by_the_next_start(
    folder: Path, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        if dies_in == "copy":
            patch.setattr(os, "replace", die)
        elif dies_in == "step":
            patch.setattr(layout, "_STEPS", {1: die})
        else:
            patch.setattr(layout, "_write_layout", die)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(folder)
    assert read_layout(folder) == 1
    prepare_folder(folder)
    kept = {path.name: path.read_bytes() for path in (folder / BACKUP).iterdir()}
    del before[f"{JOURNAL_FILE}.lock"]
    assert kept == before and read_layout(folder) == LAYOUT_VERSION
    assert not (folder / f"{BACKUP}.partial").exists()


def test_a_full_disk_stops_an_upgrade_with_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", fail)
    with pytest.raises(ConfigError, match="could not be upgraded: No space left") as refused:
        prepare_folder(folder)
    assert "free some space" in refused.value.hint and read_layout(folder) == 1


def test_a_layout_that_no_step_leaves_is_refused_with_the_fix(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_STEPS", {})
    with pytest.raises(ConfigError, match="layout 1, which this program cannot upgrade"):
        prepare_folder(folder)
