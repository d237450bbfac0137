"""Passwords come from a file that only its owner can use, or from the person."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from keys.secret_file import create_secret_file
from subnet.errors import ConfigError
from subnet.operator.passwords import MAX_PASSWORD_SIZE, read_password


@pytest.mark.parametrize("content", [b"correct horse", b"correct horse\n", b"correct horse\r\nx"])
def test_the_password_is_the_files_first_line(tmp_path: Path, content: bytes) -> None:
    create_secret_file(tmp_path / "password", content)
    assert read_password(tmp_path / "password", prompt="") == "correct horse"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_password_file_that_others_can_use_is_refused_with_its_chmod(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "password"
    create_secret_file(path, b"correct horse")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}") as caught:
        read_password(path, prompt="")
    assert caught.value.hint == f"run chmod 600 {path}"
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"\xff", "cannot read"), (b"x" * (MAX_PASSWORD_SIZE + 1), "too long"), (None, "cannot read")],
)
def test_a_file_that_holds_no_password_is_a_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        create_secret_file(tmp_path / "password", content)
    with pytest.raises(ConfigError, match=sentence):
        read_password(tmp_path / "password", prompt="")


def test_a_folder_or_a_pipe_is_no_password_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the password file"):
        read_password(tmp_path, prompt="")


def test_nobody_at_the_terminal_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", answer)
    with pytest.raises(ConfigError, match="no answer to 'Password of x'"):
        read_password(None, prompt="Password of x")
