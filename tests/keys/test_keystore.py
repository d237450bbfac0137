"""Keystores: what other wallets wrote opens, what was tampered with does not."""

import copy
import json
import stat
from pathlib import Path

import pytest

import keys.keystore as keystore_module
from keys.account import derive_development_account
from keys.errors import (
    KeyFileExists,
    KeystoreError,
    KeystoreMissing,
    KeystoreMode,
    WrongPassword,
)
from keys.keystore import (
    change_password,
    create_keystore,
    load_keystore,
    read_keystore_account,
)

PASSWORD = "correct horse"
FAST = 2
# Web3 Secret Storage, test vectors: password "testpassword".
PBKDF2_VECTOR = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
VECTOR_SECRET = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"


@pytest.fixture
def keystore(tmp_path):
    path = tmp_path / "keys" / "hotkey.json"
    create_keystore(path, derive_development_account(0), PASSWORD, work_factor=FAST)
    return path


def rewrite(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_keystore_round_trips_and_is_private(keystore):
    alith = derive_development_account(0)
    assert load_keystore(keystore, PASSWORD).private_key() == alith.private_key()
    assert read_keystore_account(keystore) == alith.account_id
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    assert alith.private_key().hex() not in keystore.read_text()


def test_published_vector_opens(tmp_path):
    path = tmp_path / "vector.json"
    path.write_text(json.dumps(PBKDF2_VECTOR))
    path.chmod(0o600)
    assert load_keystore(path, "testpassword").private_key().hex() == VECTOR_SECRET
    with pytest.raises(KeystoreError):
        read_keystore_account(path)


def test_wrong_password_has_its_own_error(keystore):
    for password in ("", "Correct horse", PASSWORD + " "):
        with pytest.raises(WrongPassword):
            load_keystore(keystore, password)


def test_keystore_is_never_overwritten(keystore):
    before = keystore.read_bytes()
    with pytest.raises(KeyFileExists):
        create_keystore(keystore, derive_development_account(1), PASSWORD, work_factor=FAST)
    assert keystore.read_bytes() == before


def test_empty_password_is_refused_at_creation(tmp_path):
    with pytest.raises(KeystoreError):
        create_keystore(tmp_path / "k", derive_development_account(0), "", work_factor=FAST)
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_keystore_open_to_others_is_refused(keystore, mode):
    keystore.chmod(mode)
    with pytest.raises(KeystoreMode, match="chmod 600"):
        load_keystore(keystore, PASSWORD)
    with pytest.raises(KeystoreMode):
        read_keystore_account(keystore)


def test_missing_keystore_is_missing(tmp_path):
    with pytest.raises(KeystoreMissing):
        load_keystore(tmp_path / "absent", PASSWORD)


@pytest.mark.parametrize("field", ["ciphertext", "mac"])
def test_tampered_ciphertext_does_not_open(keystore, field):
    def flip(document):
        value = bytearray.fromhex(document["crypto"][field])
        value[0] ^= 1
        document["crypto"][field] = value.hex()

    rewrite(keystore, flip)
    with pytest.raises(WrongPassword):
        load_keystore(keystore, PASSWORD)


def test_tampered_iv_gives_no_other_account(keystore):
    rewrite(keystore, lambda d: d["crypto"]["cipherparams"].update(iv="00" * 16))
    with pytest.raises(KeystoreError):
        load_keystore(keystore, PASSWORD)


def test_another_accounts_address_is_refused(keystore):
    rewrite(keystore, lambda d: d.update(address="11" * 20))
    with pytest.raises(KeystoreError, match="does not belong"):
        load_keystore(keystore, PASSWORD)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"version": 4}', b"{}", b"[" * 10_000],
)
def test_other_content_is_no_keystore(keystore, content):
    keystore.write_bytes(content)
    with pytest.raises(KeystoreError) as caught:
        load_keystore(keystore, PASSWORD)
    assert not isinstance(caught.value, WrongPassword)


def test_oversized_file_is_refused(keystore):
    keystore.write_bytes(b" " * 20_000)
    with pytest.raises(KeystoreError, match="larger"):
        load_keystore(keystore, PASSWORD)


def test_every_missing_field_is_refused(keystore):
    document = json.loads(keystore.read_text())
    crypto = document["crypto"]
    for holder, names in (
        ((), ["crypto", "version"]),
        (("crypto",), list(crypto)),
        (("crypto", "kdfparams"), list(crypto["kdfparams"])),
        (("crypto", "cipherparams"), ["iv"]),
    ):
        for name in names:
            if name == "cipher":
                continue  # The format knows one cipher, and the library does not read its name.
            broken = copy.deepcopy(document)
            target = broken
            for part in holder:
                target = target[part]
            del target[name]
            keystore.write_text(json.dumps(broken))
            with pytest.raises(KeystoreError):
                load_keystore(keystore, PASSWORD)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 1 << 40},
        {"r": 1 << 30},
        {"p": 1 << 30},
        {"n": -1},
        {"n": 3},
        {"n": "2"},
        {"n": True},
        {"dklen": 1 << 30},
        {"dklen": 16},
        {"salt": "zz"},
    ],
)
def test_key_derivation_that_would_stall_the_node_is_refused(keystore, changes):
    rewrite(keystore, lambda d: d["crypto"]["kdfparams"].update(changes))
    with pytest.raises(KeystoreError):
        load_keystore(keystore, PASSWORD)


def test_a_changed_password_opens_and_the_old_one_does_not(keystore):
    (keystore.parent / f"{keystore.name}.new").write_text("what a process left that died")
    key = change_password(keystore, PASSWORD, "another", work_factor=FAST)
    assert load_keystore(keystore, "another").account_id == key.account_id
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    assert list(keystore.parent.iterdir()) == [keystore]
    with pytest.raises(WrongPassword):
        load_keystore(keystore, PASSWORD)


@pytest.mark.parametrize("step", ["create_keystore", "load_keystore", "replace"])
def test_a_death_at_any_step_of_a_change_leaves_the_old_password(keystore, step, monkeypatch):
    key = load_keystore(keystore, PASSWORD)

    def die(path, *_rest, **_options):
        if path != keystore or step == "replace":
            raise KeyboardInterrupt
        return key

    owner = Path if step == "replace" else keystore_module
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(owner, step, die)
        change_password(keystore, PASSWORD, "another", work_factor=FAST)
    assert load_keystore(keystore, PASSWORD).account_id == key.account_id
    assert change_password(keystore, PASSWORD, "another", work_factor=FAST).account_id
