"""What can be wrong with a key.

KeysError
├── BadPeerId             text or bytes that are not an Ed25519 libp2p peer id
├── BadAccountId          text or bytes that are not a 20-byte account id
├── BadSignature          a signature that does not verify
├── BadEnvelope           bytes that are not a canonical signed envelope
├── IdentityFileError     an identity file that cannot be used
│   ├── IdentityFileMissing
│   ├── IdentityFileMode  readable by others than its owner
│   └── IdentityFileFormat
├── BackupError           a backup of keys that cannot be made, read or restored
│   ├── BackupDamaged     no backup, cut off or changed
│   └── BackupVersion     of a version that this program does not know
├── KeyFileExists         a key file is never overwritten
├── SecretFileExposed     a secret file open to others; its readers raise their own error for it
└── KeystoreError         a keystore, private key or mnemonic that cannot be used
    ├── KeystoreMissing
    ├── KeystoreMode      readable by others than its owner
    └── WrongPassword
"""

from __future__ import annotations

from pathlib import Path


class KeysError(Exception):
    """Base of every error about keys."""


class BadPeerId(KeysError):
    """The text or bytes are not an Ed25519 libp2p peer id."""


class BadAccountId(KeysError):
    """The text or bytes are not a 20-byte account id."""


class BadSignature(KeysError):
    """The signature does not verify."""


class BadEnvelope(KeysError):
    """The bytes are not a canonical signed envelope."""


class IdentityFileError(KeysError):
    """The identity file cannot be used."""


class IdentityFileMissing(IdentityFileError):
    """There is no readable file at this path."""


class IdentityFileMode(IdentityFileError):
    """The file can be read or written by others than its owner."""


class IdentityFileFormat(IdentityFileError):
    """The file is not an Ed25519 private key in the libp2p format."""


class BackupError(KeysError):
    """The backup of keys cannot be made, read or restored."""


class BackupDamaged(BackupError):
    """The bytes are no backup, or were cut off or changed."""


class BackupVersion(BackupError):
    """The backup is of a version that this program does not know."""


class KeyFileExists(KeysError):
    """A file stands where a new key should go; key files are never overwritten."""


class SecretFileExposed(KeysError):
    """The file can be read or written by others than its owner. ``fix`` says what to do."""

    def __init__(self, path: Path, *, mode: int) -> None:
        self.problem = f"{path} has mode {mode:04o} and is open to others than its owner"
        self.fix = f"run chmod 600 {path}"
        super().__init__(f"{self.problem}: {self.fix}")


class KeystoreError(KeysError):
    """The keystore file, private key or mnemonic cannot be used."""


class KeystoreMissing(KeystoreError):
    """There is no readable keystore at this path."""


class KeystoreMode(KeystoreError):
    """The keystore can be read or written by others than its owner."""


class WrongPassword(KeystoreError):
    """The password does not open the keystore."""
