"""Publishing this node's own heartbeat: every 20 s, and at once when it has something else to say.

A change needs an expiry of its own, of which few are free (mesh/routing/heartbeat.py). So news
without a change, such as a new roster, spend none: what was published last is published again, for
replicas that may take it now. Where none is free, the change waits for the next one.

A node that is started again may find its earlier process's last heartbeat on the replicas, which
says that it drains and expires later than what the new process has to say. It is read then, and
replaced as soon as an expiry is free.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from keys.envelope import Envelope
from keys.peer import PeerKey
from mesh.errors import MeshError
from mesh.p2p.interface import Host
from mesh.routing.directory import FETCH_TIMEOUT_S, Directory
from mesh.routing.heartbeat import (
    ServerInfo,
    ServerState,
    compute_heartbeat_expiry,
    compute_urgent_wait,
    make_heartbeat_key,
    open_heartbeat,
    seal_heartbeat,
)

ANNOUNCE_PERIOD_S = 20.0
FIRST_PERIOD_S = 5.0
"""A joining node's first heartbeat expires earlier than others."""

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
        self.newest: Envelope | None = None
        """What was announced last; None before the first announcement."""
        self._announced: ServerInfo | None = None
        self._held_until = 0
        """When an earlier process's heartbeat expires that replicas hold."""
        self._news = asyncio.Event()

    def notify(self) -> None:
        """Announce at once what may have changed, or again what others may take now."""
        self._news.set()

    async def announce(self) -> bool:
        """Publish a heartbeat if one is due or has changed; True once a replica is known to hold
        it.
        """
        return self._seal() and await self._publish()

    async def _publish(self) -> bool:
        """Publish what was sealed last."""
        if self.newest is None:
            return False
        key = make_heartbeat_key(self._network_id, self._key.peer_id)
        return await self._host.records.publish(key, self.newest.to_bytes(), self.newest.expires_at)

    def _seal(self) -> bool:
        """Make a new heartbeat, if there is an expiry for it; the node's own directory has it."""
        info = self._describe()
        expires_at = compute_heartbeat_expiry(
            self._clock(),
            self._last_expires_at,
            is_urgent=self._differs(info),
            is_joining=info.state is ServerState.JOINING,
        )
        if expires_at is None:
            return False
        self.newest = seal_heartbeat(
            self._key,
            info,
            network_id=self._network_id,
            node_id=self._node_id,
            expires_at=expires_at,
        )
        self._announced = info
        self._directory.add(self.newest.to_bytes())
        return True

    @property
    def _last_expires_at(self) -> int:
        return max(self._held_until, 0 if self.newest is None else self.newest.expires_at)

    def _differs(self, info: ServerInfo) -> bool:
        """Whether others should hear at once what ``info`` says: who may ask here for what.

        A node that joins leaves an earlier process's heartbeat alone: a change too many would delay
        that it is online.
        """
        if self._announced is None:
            return True
        if info.state is ServerState.JOINING and self._held_until == self._last_expires_at:
            return False
        return _select(info) != _select(self._announced)

    async def run(self, *, period_s: float = ANNOUNCE_PERIOD_S) -> None:
        """Announce again and again: a task of the node's group."""
        is_first, is_held = True, False
        while True:
            has_news = self._news.is_set()
            self._news.clear()
            if self._seal() or has_news or not is_held:
                is_held = await self._try_to_publish()
            wait_s = min(period_s, FIRST_PERIOD_S) if is_first else period_s
            is_first = False
            if self._differs(self._describe()):
                wait_s = min(wait_s, compute_urgent_wait(self._clock(), self._last_expires_at))
            await self._wait(wait_s)

    async def _try_to_publish(self) -> bool:
        try:
            if await self._publish():
                return True
            await self._read_held()
        except MeshError as error:
            logger.warning("the heartbeat could not be published: %s", error)
        return False

    async def _read_held(self) -> None:
        """Learn whether replicas hold a heartbeat of this node that is not this process's."""
        key = make_heartbeat_key(self._network_id, self._key.peer_id)
        later = {key: self._last_expires_at + 1}
        found = await self._host.records.fetch(later, timeout_s=FETCH_TIMEOUT_S)
        if key in found:
            now_s = self._clock()
            held, info = open_heartbeat(found[key], network_id=self._network_id, now_s=now_s)
            self._held_until, self._announced = held.expires_at, info

    async def _wait(self, period_s: float) -> None:
        try:
            async with asyncio.timeout(period_s):
                await self._news.wait()
        except TimeoutError:
            return


def _select(info: ServerInfo) -> tuple[object, ...]:
    """Return the fields whose changes are announced at once: all but load, speed and free cache."""
    return (info.role, info.state, info.span, info.dtype, info.features, info.addresses)
