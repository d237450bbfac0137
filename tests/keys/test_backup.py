"""A backup brings every key back; what was cut, edited or is of another version opens nothing."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import keys.backup as backup_module
from keys.account import derive_development_account
from keys.backup import (
    RESTORED_SUFFIX,
    KeySet,
    check_backup,
    create_backup,
    open_backup,
    read_restored_stamp,
    restore_backup,
)
from keys.errors import (
    BackupDamaged,
    BackupError,
    BackupVersion,
    KeyFileExists,
    SecretFileExposed,
    WrongPassword,
)
from keys.identity_file import PEER_ID_FILE, load_identity_file
from keys.keystore import load_keystore
from keys.peer import PeerKey

PASSWORD = "correct horse"
FAST = 2
IDENTITY, ACCOUNT = PeerKey(b"\x51" * 32), derive_development_account(0)
KEYS = KeySet({PEER_ID_FILE: IDENTITY}, {"hotkey.json": ACCOUNT})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.backup"
    create_backup(path, KEYS, PASSWORD, work_factor=FAST)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, checksum: bool) -> None:
    """Edit the file as its finder could: with ``checksum`` it fits again."""
    document = json.loads(path.read_text())
    change(document)
    if checksum:
        document["checksum"] = backup_module._compute_checksum(document)
    path.write_text(json.dumps(document))


def test_every_key_comes_back_under_its_name_and_stays_private(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "keys"
    opened = open_backup(file, PASSWORD)
    restore_backup(opened, target, PASSWORD, work_factor=FAST)
    assert load_identity_file(target / PEER_ID_FILE).peer_id == IDENTITY.peer_id
    assert load_keystore(target / "hotkey.json", PASSWORD).account_id == ACCOUNT.account_id
    for path in (file, *target.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


def test_the_file_holds_no_key_and_no_name_in_the_clear(file: Path) -> None:
    text = file.read_text()
    secrets = (ACCOUNT.private_key().hex(), IDENTITY.to_libp2p().hex(), PEER_ID_FILE, "hotkey")
    assert not [secret for secret in secrets if secret in text]
    other = file.with_name("other")
    create_backup(other, KEYS, PASSWORD, work_factor=FAST)
    assert json.loads(other.read_text())["box"] != json.loads(text)["box"]


def test_each_restored_identity_has_a_stamp_of_its_own(file: Path, tmp_path: Path) -> None:
    stamps = set()
    for name in ("one", "two"):
        restore_backup(open_backup(file, PASSWORD), tmp_path / name, PASSWORD, work_factor=FAST)
        stamps.add(read_restored_stamp(tmp_path / name / PEER_ID_FILE))
    assert len(stamps) == 2 and None not in stamps
    assert read_restored_stamp(tmp_path / "unstamped.key") is None


@pytest.mark.parametrize("content", [b"", b"x" * 32, b"0" * 33])
def test_a_stamp_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    stamp = tmp_path / f"{PEER_ID_FILE}{RESTORED_SUFFIX}"
    stamp.touch(mode=0o600)
    stamp.write_bytes(content)
    with pytest.raises(BackupError, match="is not the stamp"):
        read_restored_stamp(tmp_path / PEER_ID_FILE)


def test_a_wrong_password_opens_nothing(file: Path) -> None:
    for wrong in ("", "Correct horse", PASSWORD + " "):
        with pytest.raises(WrongPassword, match="does not open"):
            open_backup(file, wrong)


def test_a_backup_that_was_cut_off_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for size in range(0, len(whole) - 2, 7):
        file.write_bytes(whole[:size])
        with pytest.raises(BackupDamaged, match="cut off|not a backup"):
            open_backup(file, PASSWORD)


@pytest.mark.parametrize("field", ["salt", "box", "work_factor"])
@pytest.mark.parametrize("checksum", [False, True])
def test_an_edited_backup_opens_nothing(file: Path, field: str, checksum: bool) -> None:
    def change(document: dict[str, Any]) -> None:
        value = document[field]
        if isinstance(value, int):
            document[field] = 2 * value
        else:
            document[field] = value[:8] + ("0" if value[8] != "0" else "1") + value[9:]

    rewrite(file, change, checksum=checksum)
    # A fitting checksum leaves the box to refuse it.
    with pytest.raises(WrongPassword if checksum else BackupDamaged):
        open_backup(file, PASSWORD)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused_by_its_name(file: Path, version: object) -> None:
    rewrite(file, lambda document: document.update(version=version), checksum=True)
    with pytest.raises(BackupVersion, match=f"of version {version!r}, .* knows version 1"):
        check_backup(file)


@pytest.mark.parametrize("cost", [0, 1, 3, True, "2", 1 << 40, None])
def test_a_backup_that_asks_for_too_much_work_is_refused_first(file: Path, cost: object) -> None:
    rewrite(file, lambda document: document.update(work_factor=cost), checksum=True)
    with pytest.raises(BackupDamaged, match="key derivation"):
        check_backup(file)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 5000, b'{"format": "other"}', b"\xff\xfe", b"0" * 70_000]
)
def test_a_file_that_is_no_backup_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(BackupDamaged):
        check_backup(file)


@pytest.mark.parametrize("link", ["dangling", "loop"])
def test_a_link_to_nothing_is_no_backup(tmp_path: Path, link: str) -> None:
    path = tmp_path / "link"
    path.symlink_to(path if link == "loop" else tmp_path / "nothing")
    with pytest.raises(BackupError, match="cannot read a backup"):
        check_backup(path)


def test_a_link_to_a_backup_that_others_can_read_is_refused(file: Path, tmp_path: Path) -> None:
    file.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(SecretFileExposed, match="chmod 600"):
        check_backup(link)


def test_a_pipe_or_a_folder_is_no_backup(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BackupError, match="cannot read a backup"):
            check_backup(path)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_backup_is_never_overwritten_nor_written_through_a_link(
    tmp_path: Path, is_link: bool
) -> None:
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    if is_link:
        path.symlink_to(elsewhere)
    else:
        path.write_text("mine")
    with pytest.raises(KeyFileExists):
        create_backup(path, KEYS, PASSWORD, work_factor=FAST)
    assert not elsewhere.exists() and (is_link or path.read_text() == "mine")


@pytest.mark.parametrize("name", [PEER_ID_FILE, f"{PEER_ID_FILE}{RESTORED_SUFFIX}", "hotkey.json"])
@pytest.mark.parametrize("is_link", [False, True])
def test_restore_writes_nothing_if_one_file_is_in_its_way(
    file: Path, tmp_path: Path, name: str, is_link: bool
) -> None:
    target = tmp_path / "keys"
    target.mkdir()
    if is_link:
        (target / name).symlink_to(tmp_path / "elsewhere")
    else:
        (target / name).write_text("mine")
    with pytest.raises(KeyFileExists, match="never overwritten"):
        restore_backup(open_backup(file, PASSWORD), target, PASSWORD, work_factor=FAST)
    assert [path.name for path in target.iterdir()] == [name]
    assert not (tmp_path / "elsewhere").exists()


def test_restore_removes_what_it_wrote_when_a_later_file_fails(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    opened, target = open_backup(file, PASSWORD), tmp_path / "keys"
    monkeypatch.setattr(backup_module, "create_keystore", fail)
    with pytest.raises(OSError, match="No space left"):
        restore_backup(opened, target, PASSWORD, work_factor=FAST)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "..", "../peer_id.key", "/etc/passwd", ".hidden", "a b", "n" * 65, "a\n"]
)
def test_a_name_that_leaves_the_folder_is_refused_at_both_ends(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, keys = tmp_path / "node.backup", KeySet({name: IDENTITY}, {})
    with pytest.raises(BackupError, match="cannot be the name"):
        create_backup(path, keys, PASSWORD, work_factor=FAST)
    with monkeypatch.context() as patch:
        patch.setattr(backup_module, "_check_names", lambda *_: None)
        create_backup(path, keys, PASSWORD, work_factor=FAST)
    with pytest.raises(BackupDamaged, match="what it holds is malformed"):
        open_backup(path, PASSWORD)


def test_one_name_for_two_keys_none_and_too_many_are_refused(tmp_path: Path) -> None:
    many = {f"{number}.key": IDENTITY for number in range(backup_module.MAX_KEYS + 1)}
    sets = [KeySet({"a": IDENTITY}, {"a": ACCOUNT}), KeySet({}, {}), KeySet(many, {})]
    for keys in sets:
        with pytest.raises(BackupError, match="two keys are called a|1 to 64 keys"):
            create_backup(tmp_path / "node.backup", keys, PASSWORD, work_factor=FAST)
    with pytest.raises(BackupError, match="not empty"):
        create_backup(tmp_path / "node.backup", KEYS, "", work_factor=FAST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["salt", "box"])
def test_a_field_that_is_no_encoding_is_named_damage_though_the_checksum_fits(
    file: Path, field: str
) -> None:
    rewrite(file, lambda document: document.update({field: "é"}), checksum=True)
    with pytest.raises(BackupDamaged, match="is malformed"):
        open_backup(file, PASSWORD)


@pytest.mark.parametrize(
    ("name", "other", "kind"),
    [
        ("load_identity_file", PeerKey(b"\x52" * 32), "identity"),
        ("load_keystore", derive_development_account(1), "account"),
    ],
)
def test_a_key_that_does_not_read_back_as_itself_is_not_left_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: Any, kind: str
) -> None:
    """As on a disk that wrote something else."""
    monkeypatch.setattr(backup_module, name, lambda *_: other)
    target = tmp_path / "keys"
    with pytest.raises(BackupError, match=f"reads back as another {kind}"):
        restore_backup(open_backup(file, PASSWORD), target, PASSWORD, work_factor=FAST)
    assert not list(target.iterdir())


def test_a_stamp_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{PEER_ID_FILE}{RESTORED_SUFFIX}").mkdir(mode=0o700)
    with pytest.raises(BackupError, match=RESTORED_SUFFIX):
        read_restored_stamp(tmp_path / PEER_ID_FILE)


def test_a_stamp_that_a_killed_restore_left_is_named_and_no_key_is_written(
    file: Path, tmp_path: Path
) -> None:
    """The stamp comes first, so a restore that dies leaves no identity without one."""
    target = tmp_path / "keys"
    target.mkdir(mode=0o700)
    stamp = target / f"{PEER_ID_FILE}{RESTORED_SUFFIX}"
    stamp.write_text("ab" * 16)
    with pytest.raises(KeyFileExists, match=RESTORED_SUFFIX):
        restore_backup(open_backup(file, PASSWORD), target, PASSWORD, work_factor=FAST)
    assert [*target.iterdir()] == [stamp]
