"""``mesh chain accounts``: keystores of coldkeys and hotkeys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.chain.options import choose_password
from subnet.cli.console import emit, say
from subnet.cli.options import AsJson, PasswordFile
from subnet.errors import ConfigError, UsageError

MAX_LISTED = 1000
MAX_PHRASE_FILE = 4096

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make, import and list keystores (version 3).",
)

Index = Annotated[int, typer.Option(min=0, help="Last number of m/44'/60'/0'/0/N.")]
Target = Annotated[Path, typer.Argument(help="The keystore file; never overwritten.")]


@app.command("new")
def new(
    file: Target,
    phrase_file: Annotated[
        Path | None,
        typer.Option(help="New file for the phrase, instead of the terminal; 0600."),
    ] = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a new account from a new phrase of 24 words, and keep it in an encrypted keystore.

    The phrase is shown once, on a terminal only: who has it has the account, and it brings the
    account back (`accounts import`) when file or password are lost.
    """
    from keys.account import AccountKey, generate_mnemonic
    from keys.keystore import create_keystore
    from keys.secret_file import check_absent, create_secret_file

    check_absent(file)
    phrase = generate_mnemonic()
    key = AccountKey.from_mnemonic(phrase)
    if phrase_file is not None:
        create_secret_file(phrase_file, phrase.encode("ascii") + b"\n")
    create_keystore(file, key, choose_password(password_file))
    if phrase_file is None and sys.stderr.isatty():
        say(f"Write these words down, on paper; they are not shown again:\n\n{phrase}\n")
    elif phrase_file is None:
        say("the phrase is shown on a terminal only: keep a copy of the keystore and its password")
    _report(key.address, file, as_json=as_json)


@app.command("password")
def password(
    file: Annotated[Path, typer.Argument(help="A keystore file.")],
    new_password_file: Annotated[
        Path | None, typer.Option(help="File with the new password; else it is asked, twice.")
    ] = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt a keystore with another password."""
    from keys.keystore import change_password, check_keystore
    from subnet.operator.passwords import read_password

    check_keystore(file)
    old = read_password(password_file, prompt=f"Present password of {file}")
    key = change_password(file, old, choose_password(new_password_file))
    _report(key.address, file, as_json=as_json)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="A keystore file.")],
    out: Annotated[Path, typer.Option(help="New file for the private key, hexadecimal; 0600.")],
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write an account's private key to a file, unencrypted, as wallets import it."""
    from keys.secret_file import create_secret_file
    from subnet.operator.passwords import open_keystore

    key = open_keystore(file, password_file)
    create_secret_file(out, f"0x{key.private_key().hex()}\n".encode("ascii"))
    say(f"{out} is not encrypted: delete it once it is imported")
    _report(key.address, out, as_json=as_json)


@app.command("import")
def import_account(
    file: Target,
    phrase_file: Annotated[
        Path | None, typer.Option(help="File with the BIP-39 phrase; else it is asked.")
    ] = None,
    index: Index = 0,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Derive an account from a BIP-39 phrase and keep it in an encrypted keystore."""
    from keys.account import AccountKey
    from keys.keystore import create_keystore

    key = AccountKey.from_mnemonic(_read_phrase(phrase_file), index=index)
    create_keystore(file, key, choose_password(password_file))
    _report(key.address, file, as_json=as_json)


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A keystore file.")], as_json: AsJson = False
) -> None:
    """Show which account a keystore says it holds; needs no password."""
    from keys.account import format_account_id
    from keys.keystore import read_keystore_account

    _report(format_account_id(read_keystore_account(file)), file, as_json=as_json)


@app.command("list")
def list_accounts(
    directory: Annotated[Path, typer.Argument(help="Directory of keystores.")] = Path("."),
    as_json: AsJson = False,
) -> None:
    """List the keystores of a directory."""
    from keys.account import format_account_id
    from keys.errors import KeystoreError
    from keys.keystore import read_keystore_account

    if not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory", "name the one with your keystores")
    rows = []
    for path in sorted(directory.glob("*.json"))[:MAX_LISTED]:
        try:
            rows.append((format_account_id(read_keystore_account(path)), path))
        except KeystoreError as error:
            say(f"skipped: {error}")
    if as_json:
        emit(json.dumps([{"account": account, "file": str(path)} for account, path in rows]))
        return
    for account, path in rows:
        emit(f"{account}  {path}")
    if not rows:
        say(
            f"no keystore (*.json) in {directory.absolute()}; make one with"
            f" `mesh chain accounts new {directory / 'coldkey.json'}`"
        )


def _read_phrase(phrase_file: Path | None) -> str:
    if phrase_file is None:
        return str(typer.prompt("BIP-39 phrase", hide_input=True, err=True))
    try:
        with phrase_file.open(encoding="utf-8") as file:
            phrase = file.read(MAX_PHRASE_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the phrase from {phrase_file}: {error}", "check its path and mode"
        ) from error
    if not phrase.strip():
        raise UsageError(f"{phrase_file} is empty", "put the phrase on its first line")
    return " ".join(phrase.split())


def _report(account: str, file: Path, *, as_json: bool) -> None:
    emit(json.dumps({"account": account, "file": str(file)}) if as_json else f"{account}  {file}")
