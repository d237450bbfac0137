"""Reads a keystore's password from a private file, or asks the person."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from keys.errors import SecretFileExposed
from keys.secret_file import read_secret_file
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from keys.account import AccountKey

MAX_PASSWORD_SIZE = 4096


def open_keystore(path: Path, password_file: Path | None) -> AccountKey:
    """Return the key in the keystore at ``path``.

    A file that is missing, exposed or no keystore is refused before a password is asked for.
    Raises KeystoreError, WrongPassword or ConfigError.
    """
    from keys.keystore import check_keystore, load_keystore

    check_keystore(path)
    return load_keystore(path, read_password(password_file, prompt=f"Password of {path}"))


def read_password(path: Path | None, *, prompt: str) -> str:
    """Return the first line of ``path``, or what the person types without an echo.

    Raises ConfigError, for a file that others may read too.
    """
    if path is None:
        return _ask(prompt)
    try:
        raw = read_secret_file(path, max_size=MAX_PASSWORD_SIZE)
        text = raw.decode("utf-8")
    except SecretFileExposed as error:
        raise ConfigError(f"the password file {error.problem}", error.fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the password file {path}: {error}",
            "name a text file that you can read",
        ) from error
    if len(raw) > MAX_PASSWORD_SIZE:
        raise ConfigError(f"{path} is too long for a password file", "put only the password in it")
    return text.partition("\n")[0].rstrip("\r")


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError as error:
        raise ConfigError(
            f"no answer to {prompt!r}", "give a password file where no person can type"
        ) from error
