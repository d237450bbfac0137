"""One process a machine for each identity and network, whatever their data folders are.

Two nodes with one key sign two records for one slot, and score 0 for it. The journal's lock
only protects one data folder; a copied folder has a lock of its own.
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
    """Hold the identity until the block ends, or the process in whatever way.

    Raises ConfigError if another process holds it. The lock is the name of a socket in the
    kernel: no file is left behind or cleaned away, and other users and data folders see it. Who
    does not hold the key cannot know the name before it is taken.
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
            # Elsewhere than on Linux sockets have no such names: the journal's lock remains.
            logger.warning("the identity is not locked", reason=error.strerror)
        yield
