"""``mesh keys``: one encrypted backup of a node's identities and accounts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import choose_password
from subnet.cli.console import emit, say
from subnet.cli.options import AsJson
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from keys.account import AccountKey
    from keys.backup import KeySet
    from keys.peer import PeerKey

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Back up a node's identities and accounts in one encrypted file, and bring them back.",
)

Backup = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the backup's password; else it is asked."),
]


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; never overwritten.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Where `mesh keygen` wrote the identity files.")
    ] = Path("."),
    accounts: Annotated[
        list[Path] | None,
        typer.Option("--with", help="A keystore to take along; several may be given."),
    ] = None,
    account_password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password of the keystores; else each is asked."),
    ] = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the identity files of a folder, and the keystores named, to one encrypted file.

    Who has the file and its password is the node and has its accounts: keep a coldkey in a backup
    of its own.
    """
    from keys.backup import KeySet, create_backup, open_backup
    from keys.secret_file import check_absent

    check_absent(file)
    keys = KeySet(
        _load_identities(directory), _load_accounts(accounts or [], account_password_file)
    )
    password = choose_password(password_file, prompt="Password of the backup")
    _write(file, lambda: create_backup(file, keys, password))
    _report(open_backup(file, password), file, as_json=as_json)
    say(f"keep {file} and its password apart from this machine, and apart from each other")


@app.command("check")
def check(file: Backup, password_file: PasswordFile = None, as_json: AsJson = False) -> None:
    """Open a backup, and show which identities and accounts it holds. Writes nothing."""
    _report(_open(file, password_file)[0], file, as_json=as_json)


@app.command("restore")
def restore(
    file: Backup,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the files go; created if it is not there.")
    ] = Path("."),
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the identity files and keystores of a backup. None is overwritten.

    The keystores get the backup's password; `mesh chain accounts password` changes it. A node with
    a restored identity listens for a whole epoch before it signs anything.
    """
    from keys.backup import restore_backup

    keys, password = _open(file, password_file)
    _write(directory, lambda: restore_backup(keys, directory, password))
    _report(keys, file, as_json=as_json, directory=directory)
    say(
        "stop every other node with these identities: two with one key are paid nothing; "
        "a node listens for a whole epoch before it signs with a restored identity"
    )


def _open(file: Path, password_file: Path | None) -> tuple[KeySet, str]:
    """Return what the backup holds, and its password. A file that is none asks for none."""
    from keys.backup import check_backup, open_backup
    from subnet.operator.passwords import read_password

    check_backup(file)
    password = read_password(password_file, prompt=f"Password of {file}")
    return open_backup(file, password), password


def _write(place: Path, write: Callable[[], None]) -> None:
    """Call ``write``; what the disk refuses becomes a ConfigError."""
    try:
        write()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {place}: {error.strerror}", "choose another place with free space"
        ) from error


def _load_identities(directory: Path) -> dict[str, PeerKey]:
    from keys.identity_file import IDENTITY_FILES, load_identity_file

    found = [directory / name for name in IDENTITY_FILES if (directory / name).exists()]
    if not found:
        raise ConfigError(
            f"{directory} has no identity file ({', '.join(IDENTITY_FILES)})",
            "give --dir, the folder that `mesh keygen` wrote to",
        )
    return {path.name: load_identity_file(path) for path in found}


def _load_accounts(files: list[Path], password_file: Path | None) -> dict[str, AccountKey]:
    from keys.keystore import check_keystore
    from subnet.operator.passwords import open_keystore

    for file in files:
        check_keystore(file)
    names = [file.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two accounts are called {name}", "rename one of them")
    return {file.name: open_keystore(file, password_file) for file in files}


def _report(keys: KeySet, file: Path, *, as_json: bool, directory: Path | None = None) -> None:
    held = {name: str(key.peer_id) for name, key in keys.identities.items()}
    accounts = {name: key.address for name, key in keys.accounts.items()}
    if as_json:
        emit(json.dumps({"file": str(file), "identities": held, "accounts": accounts}))
        return
    for name, public in (held | accounts).items():
        emit(f"{name if directory is None else directory / name}  {public}")
