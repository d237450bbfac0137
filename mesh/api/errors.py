"""What can go wrong in the gateway.

ApiError
├── BackendBusy(retry_after_s)  the swarm has no free place now
├── GenerationFailed            the swarm lost this answer
├── PublicBindWithoutKey        the gateway would be open to the network without a key
├── AddressInUse                another process listens there
├── UsageFileUnusable           the file of what the keys used
└── KeysFileError               the file of API keys
    ├── KeysFileMissing
    ├── KeysFileMode            others can read it
    ├── KeysFileCorrupt
    ├── KeyNameTaken
    └── UnknownKeyName
"""

from __future__ import annotations

from mesh.errors import MeshError


class ApiError(MeshError):
    """Base of the gateway's errors."""


class BackendBusy(ApiError):
    """The swarm has no free place now. ``retry_after_s`` is an estimate in seconds."""

    def __init__(self, message: str = "the swarm is busy", *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationFailed(ApiError):
    """The swarm lost this answer and could not continue it."""


class PublicBindWithoutKey(ApiError):
    """Listening beyond this machine needs at least one API key."""


class AddressInUse(ApiError):
    """Another process listens on the address."""


class UsageFileUnusable(ApiError):
    """The file of usage is of something else, damaged, or open to other users."""


class KeysFileError(ApiError):
    """Base of the key file's errors. No message holds a key."""


class KeysFileMissing(KeysFileError):
    """The keys file is not there."""


class KeysFileMode(KeysFileError):
    """The keys file is open to other users."""


class KeysFileCorrupt(KeysFileError):
    """The keys file holds something else than key records."""


class KeyNameTaken(KeysFileError):
    """A key of this name exists or existed."""


class UnknownKeyName(KeysFileError):
    """No active key has this name."""
