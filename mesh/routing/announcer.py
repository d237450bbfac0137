"""Publishing this node's own heartbeat: every 20 s, and at once when its state changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from keys.envelope import Envelope
from keys.peer import PeerKey
from mesh.errors import MeshError
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import (
    ServerInfo,
    compute_heartbeat_expiry,
    make_heartbeat_key,
    seal_heartbeat,
)

ANNOUNCE_PERIOD_S = 20.0

logger = logging.getLogger(__name__)


class Announcer:
    """Says what ``describe()`` returns, to the record store and to the node's own directory."""

    def __init__(
        self,
        host: Host,
        directory: Directory,
        *,
        key: PeerKey,
        network_id: bytes,
        node_id: int,
        describe: Callable[[], ServerInfo],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._directory = directory
        self._key = key
        self._network_id = network_id
        self._node_id = node_id
        self._describe = describe
        self._clock = clock
        self._last_expires_at = 0
        self.newest: Envelope | None = None
        """What was announced last; None before the first announcement."""
        self._changed = asyncio.Event()
        self._is_urgent = False

    def notify(self) -> None:
        """Announce at once: the state or the range changed."""
        self._is_urgent = True
        self._changed.set()

    async def announce(self) -> bool:
        """Publish a heartbeat if one is due; True once a replica is known to hold it."""
        now_s = self._clock()
        expires_at = compute_heartbeat_expiry(
            now_s, self._last_expires_at, is_urgent=self._is_urgent
        )
        if expires_at is None:
            return False
        info = self._describe()
        envelope = seal_heartbeat(
            self._key,
            info,
            network_id=self._network_id,
            node_id=self._node_id,
            expires_at=expires_at,
        )
        raw = envelope.to_bytes()
        self._last_expires_at, self._is_urgent = expires_at, False
        self.newest = envelope
        self._directory.add(raw)
        key = make_heartbeat_key(self._network_id, self._key.peer_id)
        return await self._host.records.publish(key, raw, expires_at)

    async def run(self, *, period_s: float = ANNOUNCE_PERIOD_S) -> None:
        """Announce again and again: a task of the node's group."""
        while True:
            self._changed.clear()
            try:
                await self.announce()
            except MeshError as error:
                logger.warning("the heartbeat could not be published: %s", error)
            await self._wait(period_s)

    async def _wait(self, period_s: float) -> None:
        try:
            async with asyncio.timeout(period_s):
                await self._changed.wait()
        except TimeoutError:
            return
