"""Amounts, accounts and signers of the chain commands."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup, TyperOption

from keys.account import get_development_account
from keys.errors import KeystoreError
from keys.keystore import create_keystore
from subnet.account.amounts import format_amount
from subnet.cli.chain.app import app
from subnet.cli.chain.options import (
    load_signer,
    parse_account,
    parse_amount,
    parse_pair,
)
from subnet.errors import UsageError

WALKS = {"onboard", "leave"}
"""Commands of several calls, each of which looks at the chain before it signs."""
ALITH = "0xf24FF3a9CF04c71Dbc94D0b566f7A27B94566cac"


@pytest.mark.parametrize(
    ("text", "units"),
    [("0", 0), ("1", 10**18), ("12.5", 125 * 10**17), ("0.000000000000000001", 1), ("1e3", 10**21)],
)
def test_amounts_are_exact(text: str, units: int) -> None:
    assert parse_amount(text) == units
    assert parse_amount(format_amount(units)) == units


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "ten", "0.0000000000000000001", "1e99", "1,5"]
)
def test_a_malformed_amount_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_amount(text)


@pytest.mark.parametrize("text", ["alith", ALITH[:-1], ALITH[:-1] + "D", ALITH[2:]])
def test_a_malformed_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_account(text)


def test_a_pair_needs_both_sides() -> None:
    assert parse_pair("a=b=c", option="--x", form="A=B") == ("a", "b=c")
    for text in ("a", "a=", "=b"):
        with pytest.raises(UsageError):
            parse_pair(text, option="--x", form="A=B")


def test_a_signer_comes_from_exactly_one_source(tmp_path: Path) -> None:
    for key_file, dev_account in ((None, None), (tmp_path / "k", "alith")):
        with pytest.raises(UsageError):
            load_signer(key_file=key_file, password_file=None, dev_account=dev_account)


def test_a_keystore_opens_with_its_password_file(tmp_path: Path) -> None:
    key, path, secret = get_development_account("Faith"), tmp_path / "k.json", tmp_path / "pw"
    create_keystore(path, key, "correct horse", work_factor=1 << 4)
    secret.write_text("correct horse\n")
    secret.chmod(stat.S_IRUSR)
    loaded = load_signer(key_file=path, password_file=secret, dev_account=None)
    assert loaded.account_id == key.account_id


@pytest.mark.parametrize("content", [None, "{}", "no keystore"])
def test_a_key_file_that_cannot_be_used_is_said_before_a_password_is_asked_for(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "k.json", []
    if content is not None:
        path.write_text(content)
        path.chmod(stat.S_IRUSR)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "")
    with pytest.raises(KeystoreError, match=r"k\.json"):
        load_signer(key_file=path, password_file=None, dev_account=None)
    assert asked == []


def list_options(name: str) -> dict[str, str]:
    """Return the options of one ``mesh chain`` command, with their help texts."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return {
        option.opts[0]: option.help or ""
        for option in command.commands[name].params
        if isinstance(option, TyperOption)
    }


def test_every_command_that_signs_has_the_same_options_and_so_has_every_one_that_reads() -> None:
    names = [command.name or "" for command in app.registered_commands]
    signing = [name for name in names if "--key-file" in list_options(name)]
    assert len(signing) >= 20
    reading = list_options("balance")
    wanted = reading | {
        option: text
        for option, text in list_options("claim").items()
        if option.startswith(("--key-file", "--password-file", "--dev-account", "--tip"))
    }
    assert {"--chain", "--json"} <= set(reading) and len(wanted) == len(reading) + 4
    for name in names:
        found = list_options(name)
        assert (wanted if name in signing else reading).items() <= found.items(), name
        assert ("--dry-run" in found) == (name in signing and name not in WALKS), name
