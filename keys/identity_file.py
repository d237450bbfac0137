"""The file that holds a peer's Ed25519 key, in the format of libp2p's daemon.

68 bytes: the protobuf ``PrivateKey{type: Ed25519, data: seed || public key}``
(libp2p peer-id specification). The daemon reads the same file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keys.errors import (
    IdentityFileFormat,
    IdentityFileMissing,
    IdentityFileMode,
    SecretFileExposed,
)
from keys.peer import PUBLIC_KEY_SIZE, SEED_SIZE, PeerId, PeerKey
from keys.secret_file import check_absent, create_secret_file, read_secret_file

PEER_ID_FILE = "peer_id.key"
BOOTSTRAP_PEER_ID_FILE = "bootstrap_peer_id.key"
CLIENT_PEER_ID_FILE = "client_peer_id.key"
IDENTITY_FILES = (PEER_ID_FILE, BOOTSTRAP_PEER_ID_FILE, CLIENT_PEER_ID_FILE)
"""The files of one node, in the order of IdentitySet's fields."""
_PREFIX = bytes.fromhex("08011240")
IDENTITY_FILE_SIZE = len(_PREFIX) + SEED_SIZE + PUBLIC_KEY_SIZE


@dataclass(frozen=True, slots=True)
class IdentitySet:
    """The three public identities that the chain registers for one node."""

    peer_id: PeerId
    bootstrap_peer_id: PeerId
    client_peer_id: PeerId


def create_identity_file(path: Path) -> PeerId:
    """Make a new identity, write it to ``path`` with mode 0600, and return its public half.

    Missing directories are created with mode 0700. Raises KeyFileExists, OSError.
    """
    key = PeerKey.generate()
    create_secret_file(path, key.to_libp2p())
    return key.peer_id


def create_identity_set(directory: Path) -> IdentitySet:
    """Write the three identity files of one node.

    None is written if any of them exists. Raises KeyFileExists, OSError.
    """
    for name in IDENTITY_FILES:
        check_absent(directory / name)
    return IdentitySet(*(create_identity_file(directory / name) for name in IDENTITY_FILES))


def load_identity_file(path: Path) -> PeerKey:
    """Read the identity at ``path``; symbolic links are followed.

    Raises IdentityFileMissing, IdentityFileMode or IdentityFileFormat.
    """
    try:
        raw = read_secret_file(path, max_size=IDENTITY_FILE_SIZE)
    except SecretFileExposed as error:
        raise IdentityFileMode(str(error)) from error
    except OSError as error:
        raise IdentityFileMissing(f"cannot read an identity from {path}: {error}") from error
    return decode_identity(raw, source=str(path))


def decode_identity(raw: bytes, *, source: str = "the key") -> PeerKey:
    """Return the key in the bytes of an identity file. Raises IdentityFileFormat."""
    if len(raw) != IDENTITY_FILE_SIZE:
        raise IdentityFileFormat(f"{source} has not the {IDENTITY_FILE_SIZE} bytes of an identity")
    if not raw.startswith(_PREFIX):
        raise IdentityFileFormat(f"{source} is not an Ed25519 private key in the libp2p format")
    key = PeerKey(raw[len(_PREFIX) : len(_PREFIX) + SEED_SIZE])
    if key.peer_id.public_key != raw[-PUBLIC_KEY_SIZE:]:
        # The daemon would sign with the one half and introduce itself with the other.
        raise IdentityFileFormat(f"the public half in {source} does not belong to the private half")
    return key
