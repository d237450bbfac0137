"""What can be wrong with a key.

KeysError
├── BadPeerId             text or bytes that are not an Ed25519 libp2p peer id
├── BadSignature          a signature that does not verify
├── BadEnvelope           bytes that are not a canonical signed envelope
├── IdentityFileError     an identity file that cannot be used
│   ├── IdentityFileMissing
│   ├── IdentityFileMode  readable by others than its owner
│   └── IdentityFileFormat
├── KeyFileExists         a key file is never overwritten
└── KeystoreError         a keystore or mnemonic that cannot be used
    └── WrongPassword
"""

from __future__ import annotations


class KeysError(Exception):
    """Base of every error about keys."""


class BadPeerId(KeysError):
    """The text or bytes are not an Ed25519 libp2p peer id."""


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


class KeyFileExists(KeysError):
    """A file stands where a new key should go; key files are never overwritten."""


class KeystoreError(KeysError):
    """The keystore file or mnemonic cannot be used."""


class WrongPassword(KeystoreError):
    """The password does not open the keystore."""
