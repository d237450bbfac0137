"""``mesh chain accounts``: keystores of coldkeys and hotkeys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.chain.options import AsJson, PasswordFile, choose_password
from subnet.cli.console import emit, say
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
def new(file: Target, password_file: PasswordFile = None, as_json: AsJson = False) -> None:
    """Make a new random account and keep it in an encrypted keystore."""
    import secrets

    from keys.account import AccountKey
    from keys.keystore import create_keystore

    key = AccountKey.from_private_key(secrets.token_bytes(32))
    create_keystore(file, key, choose_password(password_file))
    _report(key.address, file, as_json=as_json)


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
