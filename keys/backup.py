"""One encrypted file with a node's identities and accounts.

The file is JSON: the parameters of scrypt, the same as a keystore's, and a box of libsodium
(XSalsa20-Poly1305) that holds the names and private keys. Accounts are kept as keys, not as their
keystores, so one password opens everything. The checksum tells a damaged file from a wrong
password; it protects against nothing else, which the box does.

Restoring leaves a stamp beside each identity. A node that has not listened since the stamp was
made listens first: the identity may run elsewhere (subnet/operator/identity_watch.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from keys.account import AccountKey
from keys.errors import (
    BackupDamaged,
    BackupError,
    BackupVersion,
    KeysError,
    WrongPassword,
)
from keys.identity_file import decode_identity, load_identity_file
from keys.keystore import SCRYPT_WORK_FACTOR, create_keystore, load_keystore
from keys.peer import PeerKey
from keys.secret_file import check_absent, create_secret_file, read_secret_file

FORMAT = "mesh-keys-backup"
VERSION = 1
MAX_BACKUP_SIZE = 64 * 1024
MAX_KEYS = 64
MIN_WORK_FACTOR = 2
MAX_WORK_FACTOR = SCRYPT_WORK_FACTOR << 2
SALT_SIZE = 32
SCRYPT_R, SCRYPT_P = 8, 1
RESTORED_SUFFIX = ".restored"
STAMP_SIZE = 16
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_FIELDS = {"format", "version", "work_factor", "salt", "box", "checksum"}


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one node, each under the name of its file."""

    identities: Mapping[str, PeerKey]
    accounts: Mapping[str, AccountKey]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, in the order in which they are restored."""
        return (*self.identities, *self.accounts)


def create_backup(
    path: Path, keys: KeySet, password: str, *, work_factor: int = SCRYPT_WORK_FACTOR
) -> None:
    """Encrypt ``keys`` into a new file of mode 0600; takes a second by design.

    Raises KeyFileExists, BackupError (no key, too many, a bad name, an empty password) or OSError.
    """
    if not password:
        raise BackupError("a backup needs a password that is not empty")
    _check_names(keys.identities, keys.accounts)
    check_absent(path)
    content = {
        "identities": {name: key.to_libp2p().hex() for name, key in keys.identities.items()},
        "accounts": {name: key.private_key().hex() for name, key in keys.accounts.items()},
    }
    salt = secrets.token_bytes(SALT_SIZE)
    box = SecretBox(_derive(password, salt, work_factor)).encrypt(json.dumps(content).encode())
    document = {
        "format": FORMAT,
        "version": VERSION,
        "work_factor": work_factor,
        "salt": salt.hex(),
        "box": base64.b64encode(box).decode("ascii"),
    }
    document["checksum"] = _compute_checksum(document)
    create_secret_file(path, json.dumps(document, indent=2).encode("ascii") + b"\n")


def check_backup(path: Path) -> None:
    """Check everything about the file that needs no password.

    Raises BackupError, BackupDamaged, BackupVersion or SecretFileExposed.
    """
    _read_document(path)


def open_backup(path: Path, password: str) -> KeySet:
    """Return the keys in the backup. Writes nothing.

    Raises WrongPassword, BackupError, BackupDamaged, BackupVersion or SecretFileExposed.
    """
    document = _read_document(path)
    key = _derive(password, document["salt"], document["work_factor"])
    try:
        raw = SecretBox(key).decrypt(document["box"])
    except (CryptoError, ValueError):
        raise WrongPassword(f"the password does not open {path}") from None
    return _decode_content(raw, path)


def restore_backup(
    keys: KeySet, directory: Path, password: str, *, work_factor: int = SCRYPT_WORK_FACTOR
) -> None:
    """Write every key to a file of its own in ``directory``, and read each one back.

    Keystores get ``password``. None is written if any of the files exists; what was written is
    removed if a later one cannot be. Raises KeyFileExists, KeysError or OSError.
    """
    for name in keys.names:
        check_absent(directory / name)
        check_absent(directory / f"{name}{RESTORED_SUFFIX}")
    written: list[Path] = []
    try:
        for name, identity in keys.identities.items():
            _restore_identity(directory / name, identity, written)
        for name, account in keys.accounts.items():
            path = directory / name
            create_keystore(path, account, password, work_factor=work_factor)
            written.append(path)
            if load_keystore(path, password).account_id != account.account_id:
                raise BackupError(f"{path} reads back as another account")
    except BaseException:
        for path in reversed(written):
            with suppress(OSError):
                path.unlink()
        raise


def _restore_identity(path: Path, key: PeerKey, written: list[Path]) -> None:
    """Write the stamp, then the identity: a node must not find it without its stamp."""
    stamp = path.with_name(path.name + RESTORED_SUFFIX)
    create_secret_file(stamp, secrets.token_hex(STAMP_SIZE).encode("ascii"))
    written.append(stamp)
    create_secret_file(path, key.to_libp2p())
    written.append(path)
    if load_identity_file(path).peer_id != key.peer_id:
        raise BackupError(f"{path} reads back as another identity")


def read_restored_stamp(identity_path: Path) -> str | None:
    """Return what ``restore_backup`` left beside an identity; None if it left nothing.

    Raises BackupError for a stamp that cannot be read or is none.
    """
    path = identity_path.with_name(identity_path.name + RESTORED_SUFFIX)
    try:
        raw = read_secret_file(path, max_size=2 * STAMP_SIZE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}") from error
    text = raw.decode("ascii", "replace")
    if not re.fullmatch(f"[0-9a-f]{{{2 * STAMP_SIZE}}}", text):
        raise BackupError(f"{path} is not the stamp of a restored identity")
    return text


def _read_document(path: Path) -> dict[str, Any]:
    """Return the fields with salt and box as bytes, all checked but the box."""
    try:
        raw = read_secret_file(path, max_size=MAX_BACKUP_SIZE)
    except OSError as error:
        raise BackupError(f"cannot read a backup from {path}: {error}") from error
    if len(raw) > MAX_BACKUP_SIZE:
        raise BackupDamaged(f"{path} is larger than the {MAX_BACKUP_SIZE} bytes of a backup")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise BackupDamaged(f"{path} is no backup of keys, or was cut off") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BackupDamaged(f"{path} is not a backup of keys")
    if document.get("version") != VERSION:
        raise BackupVersion(
            f"{path} is a backup of version {document.get('version')!r}, "
            f"and this program knows version {VERSION}"
        )
    if set(document) != _FIELDS or document["checksum"] != _compute_checksum(document):
        raise BackupDamaged(f"{path} was changed or is damaged: its checksum does not hold")
    try:
        salt, box = bytes.fromhex(document["salt"]), base64.b64decode(document["box"])
    except (TypeError, ValueError, binascii.Error) as error:
        raise BackupDamaged(f"{path} is malformed") from error
    cost = document["work_factor"]
    is_power = type(cost) is int and cost > 0 and cost & (cost - 1) == 0
    if not is_power or not MIN_WORK_FACTOR <= cost <= MAX_WORK_FACTOR or len(salt) != SALT_SIZE:
        raise BackupDamaged(f"the key derivation in {path} is malformed or asks for too much work")
    return document | {"salt": salt, "box": box}


def _decode_content(raw: bytes, path: Path) -> KeySet:
    """Return the keys of an opened box: its author had the password, and may still be wrong."""
    try:
        content = json.loads(raw)
        identities, accounts = content["identities"], content["accounts"]
        _check_names(identities, accounts)
        return KeySet(
            {name: decode_identity(bytes.fromhex(text)) for name, text in identities.items()},
            {name: AccountKey(bytes.fromhex(text)) for name, text in accounts.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, KeysError):
        # Not chained: an error could quote a key.
        raise BackupDamaged(f"{path} opens, and what it holds is malformed") from None


def _check_names(identities: Mapping[str, object], accounts: Mapping[str, object]) -> None:
    """Raise BackupError unless the names are few, plain file names, and each is there once."""
    names = [*identities, *accounts]
    if not 0 < len(names) <= MAX_KEYS:
        raise BackupError(f"a backup holds 1 to {MAX_KEYS} keys, not {len(names)}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise BackupError(f"{name[:64]!r} cannot be the name of a key file in a backup")
        if names.count(name) > 1:
            raise BackupError(f"two keys are called {name}")


def _derive(password: str, salt: bytes, work_factor: int) -> bytes:
    # Twice what scrypt's table takes, so that its overhead fits.
    memory = 2 * 128 * work_factor * SCRYPT_R * SCRYPT_P + (1 << 20)
    return hashlib.scrypt(
        password.encode(),
        salt=salt,
        n=work_factor,
        r=SCRYPT_R,
        p=SCRYPT_P,
        maxmem=memory,
        dklen=SecretBox.KEY_SIZE,
    )


def _compute_checksum(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
