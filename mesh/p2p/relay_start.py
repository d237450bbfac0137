"""A p2pd that relays within the limits it was given, and not within go-libp2p's own.

The shipped p2pd sets up two relays at its start: one with our limits and one with 2 minutes and
128 KiB a connection, through which no answer passes. The one that comes last answers for as long
as p2pd runs. On one thread (``GOMAXPROCS=1``) that is ours in about 19 of 20 starts on a machine
that is busy. So a relay is asked for a reservation once it runs, and started again if it grants
other limits.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from keys.peer import PeerKey
from mesh.errors import DaemonFailed, MeshError
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.daemon import Daemon, run_daemon
from mesh.p2p.reservations import Reservation, fetch_reservation

MAX_STARTS = 8
_HERE = {"/ip4/0.0.0.0/": "/ip4/127.0.0.1/", "/ip6/::/": "/ip6/::1/"}

logger = logging.getLogger(__name__)


@asynccontextmanager
async def run_relay(config: HostConfig, limits: RelayLimits) -> AsyncIterator[Daemon]:
    """Run p2pd for the length of the block, as a relay with ``limits``.

    Raises DaemonFailed when it does not start, or relays within others at each of its starts.
    """
    for _ in range(MAX_STARTS):
        async with run_daemon(config) as daemon:
            if await _has_limits(daemon, config, limits):
                yield daemon
                return
            logger.info("p2pd relays within limits of its own; starting it again")
    raise DaemonFailed(f"p2pd relays within limits of its own after {MAX_STARTS} starts")


async def _has_limits(daemon: Daemon, config: HostConfig, limits: RelayLimits) -> bool:
    """Whether it relays as it should; True where it cannot be reached from this machine."""
    addresses = [*await daemon.fetch_addresses(), *list_own_addresses(config.host_maddrs)]
    asking = HostConfig(key=PeerKey.generate(), host_maddrs=(), client_mode=True)
    async with run_daemon(asking) as other:
        try:
            granted = await fetch_reservation(other, config.key.peer_id, addresses)
        except MeshError as error:
            logger.debug("the limits of this relay are not known: %s", error)
            return True
    return granted == Reservation(limits.max_time_s, limits.max_bytes)


def list_own_addresses(listened: Sequence[str]) -> list[str]:
    """Return where a p2pd that listens at ``listened`` is reached from this machine.

    What it announces may be an address that only others can dial. Ports that the kernel chooses
    are not known.
    """
    found = []
    for text in listened:
        for wildcard, own in _HERE.items():
            text = text.replace(wildcard, own)
        if "/tcp/0" not in text and "/udp/0" not in text:
            found.append(text)
    return found
