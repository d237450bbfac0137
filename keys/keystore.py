"""Encrypted account keys: Web3 Secret Storage version 3, which wallets import and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keys.account import AccountKey, parse_account_id
from keys.errors import (
    BadAccountId,
    KeystoreError,
    KeystoreMissing,
    KeystoreMode,
    SecretFileExposed,
    WrongPassword,
)
from keys.secret_file import check_absent, create_secret_file, read_secret_file

MAX_KEYSTORE_SIZE = 16 * 1024
SCRYPT_WORK_FACTOR = 1 << 18
# A file that asks for more would take minutes or gigabytes before it is refused.
MAX_SCRYPT_MEMORY = 1 << 31
MAX_PBKDF2_ROUNDS = 10_000_000


def create_keystore(
    path: Path, key: AccountKey, password: str, *, work_factor: int = SCRYPT_WORK_FACTOR
) -> None:
    """Encrypt ``key`` into a new file of mode 0600; takes seconds by design.

    ``work_factor`` is scrypt's N, a power of two. Raises KeyFileExists,
    KeystoreError for an empty password, OSError.
    """
    if not password:
        raise KeystoreError("a keystore needs a password that is not empty")
    # Before the work; the creation itself is exclusive all the same.
    check_absent(path)
    from eth_account import Account

    document = Account.encrypt(key.private_key(), password, kdf="scrypt", iterations=work_factor)
    create_secret_file(path, json.dumps(document, indent=2).encode("ascii") + b"\n")


def change_password(
    path: Path, old: str, new: str, *, work_factor: int = SCRYPT_WORK_FACTOR
) -> AccountKey:
    """Encrypt the key in ``path`` with another password; return it.

    The file is replaced in one step, once the new one was read back: whatever happens, one of the
    two passwords opens it. Raises as ``load_keystore`` and ``create_keystore`` do.
    """
    key = load_keystore(path, old)
    written = path.with_name(path.name + ".new")
    written.unlink(missing_ok=True)
    create_keystore(written, key, new, work_factor=work_factor)
    load_keystore(written, new)
    written.replace(path)
    return key


def load_keystore(path: Path, password: str) -> AccountKey:
    """Decrypt the account key in ``path``.

    Raises KeystoreMissing, KeystoreMode, WrongPassword or KeystoreError.
    """
    document = _read_document(path)
    claimed = _parse_address(document, path)
    _check_cost(document, path)
    key = AccountKey.from_private_key(_decrypt(document, password, path))
    if claimed is not None and key.account_id != claimed:
        raise KeystoreError(f"the address in {path} does not belong to its key")
    return key


def check_keystore(path: Path) -> None:
    """Check everything about the file that needs no password.

    Raises KeystoreMissing, KeystoreMode or KeystoreError.
    """
    document = _read_document(path)
    _parse_address(document, path)
    _check_cost(document, path)


def read_keystore_account(path: Path) -> bytes:
    """Return the account id that ``path`` names, without a password.

    The name is not proven until the file is opened. Raises KeystoreError.
    """
    account_id = _parse_address(_read_document(path), path)
    if account_id is None:
        raise KeystoreError(f"{path} does not name its address")
    return account_id


def _read_document(path: Path) -> dict[str, Any]:
    try:
        raw = read_secret_file(path, max_size=MAX_KEYSTORE_SIZE)
    except SecretFileExposed as error:
        raise KeystoreMode(str(error)) from error
    except OSError as error:
        raise KeystoreMissing(f"cannot read a keystore from {path}: {error}") from error
    if len(raw) > MAX_KEYSTORE_SIZE:
        raise KeystoreError(f"{path} is larger than the {MAX_KEYSTORE_SIZE} bytes of a keystore")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        # Not chained: a half-encrypted or plain key file would be quoted in the traceback.
        raise KeystoreError(f"{path} is not JSON") from None
    if not isinstance(document, dict) or document.get("version") != 3:
        raise KeystoreError(f"{path} is not a version 3 keystore")
    return document


def _parse_address(document: dict[str, Any], path: Path) -> bytes | None:
    address = document.get("address")
    if address is None:
        return None
    if not isinstance(address, str):
        raise KeystoreError(f"the address in {path} is not text")
    try:
        return parse_account_id("0x" + address.removeprefix("0x").lower())
    except BadAccountId as error:
        raise KeystoreError(f"the address in {path} is malformed") from error


def _check_cost(document: dict[str, Any], path: Path) -> None:
    crypto = document.get("crypto", document.get("Crypto"))
    if not isinstance(crypto, dict) or not isinstance(crypto.get("kdfparams"), dict):
        raise KeystoreError(f"{path} lacks its cipher parameters")
    names = {"scrypt": ("n", "r", "p", "dklen"), "pbkdf2": ("c", "dklen")}.get(
        str(crypto.get("kdf"))
    )
    if names is None:
        raise KeystoreError(f"{path} uses an unknown key derivation")
    values = [crypto["kdfparams"].get(name) for name in names]
    if not all(type(value) is int and value > 0 for value in values):
        raise KeystoreError(f"the key derivation in {path} is malformed")
    cost = values[0] if len(names) == 2 else 128 * values[0] * values[1] * values[2]
    limit = MAX_PBKDF2_ROUNDS if len(names) == 2 else MAX_SCRYPT_MEMORY
    if cost > limit or values[-1] != 32:
        raise KeystoreError(f"the key derivation in {path} asks for too much work")


def _decrypt(document: dict[str, Any], password: str, path: Path) -> bytes:
    from eth_account import Account

    try:
        return bytes(Account.decrypt(document, password))
    except ValueError as error:
        # eth-keyfile has no type of its own for this.
        if "MAC mismatch" in str(error):
            raise WrongPassword(f"the password does not open {path}") from None
        raise KeystoreError(f"{path} is malformed") from error
    # eth-keyfile raises NotImplementedError for an unknown version or key derivation.
    except (KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise KeystoreError(f"{path} is malformed") from error
