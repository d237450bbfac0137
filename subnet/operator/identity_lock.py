"""Allows one process per identity and network on a machine, in any data folder.

Two nodes with one key would sign two records for one slot and score 0. The journal's lock covers
one data folder only; a copied folder has its own lock.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from keys.peer import PeerKey
from subnet.errors import ConfigError

logger = structlog.get_logger(__name__)

_TAG = b"mesh/identity-lock"


@contextmanager
def hold_identity(key: PeerKey, network_id: bytes) -> Iterator[None]:
    """Hold the lock. It is released at the end of the ``with`` block or when the process dies.

    The lock is the name of a socket in the kernel: it leaves no file, and processes of other users
    and data folders see it. The name is derived from the key, so that a process without it cannot
    take it first. Raises ConfigError if another process holds it.
    """
    name = b"\0mesh/" + key.derive_secret(_TAG + network_id).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(name)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"another process runs as {key.peer_id} on this machine",
                    "stop it, or make an identity of its own for this node with `mesh keygen`",
                ) from error
            # Only Linux has such names; elsewhere the journal's lock is the only one.
            logger.warning("the identity is not locked", reason=error.strerror)
        yield
