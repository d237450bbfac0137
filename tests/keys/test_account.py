"""Chain accounts: the development accounts are the known answers."""

import pickle
import subprocess
import sys
import traceback

import pytest

from keys.account import (
    DEVELOPMENT_MNEMONIC,
    DEVELOPMENT_NAMES,
    AccountKey,
    derive_development_account,
    format_account_id,
    get_development_account,
    parse_account_id,
)
from keys.errors import BadAccountId, KeystoreError

DEVELOPMENT_ACCOUNTS = {
    "Alith": "f24ff3a9cf04c71dbc94d0b566f7a27b94566cac",
    "Baltathar": "3cd0a705a2dc65e5b1e1205896baa2be8a07c6e0",
    "Charleth": "798d4ba9baf0064ec19eb4f0a1a45785ae9d6dfc",
    "Dorothy": "773539d4ac0e786233d90a233654ccee26a613d9",
    "Ethan": "ff64d3f6efe2317ee2807d223a0bdc4c0c49dfdb",
    "Faith": "c0f0f4ab324c46e55d02d0033343b4be8a55532d",
}
# EIP-55, test cases.
CHECKSUMMED = (
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)


@pytest.mark.parametrize("name", DEVELOPMENT_NAMES)
def test_development_accounts_are_the_chains(name):
    key = get_development_account(name)
    assert key.account_id.hex() == DEVELOPMENT_ACCOUNTS[name]
    assert get_development_account(name.lower()).address == key.address
    assert derive_development_account(DEVELOPMENT_NAMES.index(name)).address == key.address


def test_further_development_accounts_differ():
    assert len({derive_development_account(index).account_id for index in range(8)}) == 8


def test_unknown_development_name_is_refused():
    with pytest.raises(KeystoreError):
        get_development_account("Mallory")


def test_private_key_round_trips():
    alith = derive_development_account(0)
    again = AccountKey.from_private_key(alith.private_key())
    assert again.account_id == alith.account_id
    assert len(again.account_id) == 20
    assert again.address == format_account_id(alith.account_id)


GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(31), bytes(33), bytes(32), b"\xff" * 32, GROUP_ORDER.to_bytes(32, "big")],
)
def test_bytes_that_are_no_private_key_are_refused(raw):
    with pytest.raises(KeystoreError):
        AccountKey.from_private_key(raw)


@pytest.mark.parametrize("scalar", [1, GROUP_ORDER - 1])
def test_first_and_last_private_key_are_accepted(scalar):
    AccountKey.from_private_key(scalar.to_bytes(32, "big"))


@pytest.mark.parametrize(
    "phrase",
    [
        "",
        "bottom",
        "bottom drive obey lake curtain smoke basket hold race lonely fit fit",
        "bottom drive obey lake curtain smoke basket hold race lonely fit walkk",
        DEVELOPMENT_MNEMONIC + " walk",
        "walk " * 200,
    ],
)
def test_phrase_that_is_no_mnemonic_is_refused_and_not_quoted(phrase):
    with pytest.raises(KeystoreError) as caught:
        AccountKey.from_mnemonic(phrase)
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__)
    assert "lonely" not in shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("index", [-1, 2**31])
def test_derivation_index_out_of_range_is_refused(index):
    with pytest.raises(ValueError):
        AccountKey.from_mnemonic(DEVELOPMENT_MNEMONIC, index=index)


def test_account_key_shows_no_secret_and_is_not_pickled():
    key = derive_development_account(0)
    assert key.private_key().hex() not in repr(key) + str(key)
    assert key.address in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("text", CHECKSUMMED)
def test_checksummed_address_round_trips(text):
    assert format_account_id(parse_account_id(text)) == text
    assert parse_account_id("0x" + text[2:].lower()) == parse_account_id(text)
    assert parse_account_id("0x" + text[2:].upper()) == parse_account_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        CHECKSUMMED[0][:-1],
        CHECKSUMMED[0] + "0",
        CHECKSUMMED[0][2:],
        CHECKSUMMED[0] + "\n",
        "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xg" + CHECKSUMMED[0][3:],
    ],
)
def test_mistyped_address_is_refused(text):
    with pytest.raises(BadAccountId):
        parse_account_id(text)


@pytest.mark.parametrize("size", [0, 19, 21, 32])
def test_account_id_of_another_size_is_refused(size):
    with pytest.raises(BadAccountId):
        format_account_id(bytes(size))


def test_importing_the_module_does_not_import_eth_account():
    code = "import sys, keys.account, keys.keystore; sys.exit('eth_account' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
