"""``mesh keys``: backup, check and restore as a person types them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import keys.backup
import keys.keystore
from keys.account import derive_development_account
from keys.identity_file import IDENTITY_FILES, PEER_ID_FILE, create_identity_set
from keys.keystore import create_keystore, load_keystore
from keys.secret_file import create_secret_file
from subnet.cli.console import run_app
from subnet.cli.mesh import app

PASSWORD, OTHER = "correct horse", "battery staple"
CHEAP = 1 << 4
ACCOUNT = derive_development_account(0)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt cost nothing."""
    for function in (keys.backup.create_backup, keys.backup.restore_backup, create_keystore):
        assert function.__kwdefaults__ is not None
        monkeypatch.setitem(function.__kwdefaults__, "work_factor", CHEAP)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with identities, one keystore, and files with passwords."""
    create_identity_set(tmp_path / "keys")
    create_keystore(tmp_path / "hotkey.json", ACCOUNT, OTHER)
    for name, text in (("password", PASSWORD), ("other", OTHER)):
        create_secret_file(tmp_path / name, f"{text}\n".encode())
    return tmp_path


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(app, ["keys", *map(str, arguments)], name="mesh")
    code = ended.value.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def ok(*arguments: object) -> dict[str, dict[str, str]]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def fails(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert (code, out) == (1, ""), err
    sentence, fix = err.splitlines()
    assert sentence.startswith("error: ") and fix.startswith("hint: ")
    return f"{sentence} {fix}"


def back_up(home: Path) -> Path:
    file = home / "node.backup"
    line = ["backup", file, "--dir", home / "keys", "--with", home / "hotkey.json"]
    ok(*line, "--account-password-file", home / "other", "--password-file", home / "password")
    return file


def test_what_check_shows_is_what_restore_brings_back(home: Path) -> None:
    file = back_up(home)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    shown = ok("check", file, "--password-file", home / "password")
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert tuple(shown["identities"]) == IDENTITY_FILES
    assert shown["accounts"] == {"hotkey.json": ACCOUNT.address}
    target = home / "new"
    restored = ok("restore", file, "--dir", target, "--password-file", home / "password")
    assert restored == shown
    for name in IDENTITY_FILES:
        assert (target / name).read_bytes() == (home / "keys" / name).read_bytes()
    assert load_keystore(target / "hotkey.json", PASSWORD).account_id == ACCOUNT.account_id


def test_a_typed_password_is_asked_for_twice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def prompt(text: str, **options: object) -> str:
        asked.append((text, options["hide_input"], options["confirmation_prompt"]))
        return PASSWORD

    monkeypatch.setattr("typer.prompt", prompt)
    ok("backup", home / "node.backup", "--dir", home / "keys")
    assert asked == [("Password of the backup", True, True)]
    ok("check", home / "node.backup", "--password-file", home / "password")


def test_no_key_is_ever_printed(home: Path) -> None:
    file = back_up(home)
    _, out, err = run("check", file, "--password-file", home / "password")
    secret = (home / "keys" / PEER_ID_FILE).read_bytes()[4:36].hex()
    assert secret not in out + err and ACCOUNT.private_key().hex() not in out + err
    assert PASSWORD not in out + err


def test_each_mistake_is_one_sentence_and_one_fix(home: Path) -> None:
    file, password = back_up(home), ["--password-file", home / "password"]
    target = home / "keys"
    assert "never overwritten" in fails("restore", file, "--dir", target, *password)
    assert "never overwritten" in fails("backup", file, "--dir", target, *password)
    assert "does not open" in fails("check", file, "--password-file", home / "other")
    assert "has no identity file" in fails("backup", home / "b", "--dir", home, *password)
    assert "cannot read a backup" in fails("check", home / "missing", *password)
    twice = ["--with", home / "hotkey.json", "--with", home / "hotkey.json"]
    assert "two accounts are called" in fails("backup", home / "b", "--dir", target, *twice)
    in_the_way = home / "password" / "keys"
    assert "cannot write to" in fails("restore", file, "--dir", in_the_way, *password)
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    assert "take another copy" in fails("check", file, *password)
    file.write_text(whole.replace('"version": 1', '"version": 7'))
    assert "of version 7" in fails("check", file, *password)
    file.write_text(whole)
    file.chmod(0o640)
    assert "chmod" in fails("check", file, *password)
