"""Notices peers that have stopped answering: a frozen process, a cable pulled.

Theory of operation
===================

A killed process closes its connections, so its callers learn of it at once. A frozen process, or
one behind a cut link, sends nothing. So peers are pinged while a caller waits for them: a short
signed call that a node answers on its event loop, also while it computes. What does not answer
pings is frozen; what answers and does not compute is slow, and is left to the caller's own timeout.

1. :meth:`PeerWatch.watch` names the peers that a caller waits for. Nothing is sent before the wait
   has lasted ``PING_AFTER_S``, so a flowing answer costs no pings. All callers that wait for one
   peer share its pings, one every ``PERIOD_S``.
2. A ping without an answer within ``PING_S`` is a miss, and ``MISSES`` misses in a row mean
   silence. One is not enough: a packet was lost, or this process itself stood still.
3. Only a peer that answered a ping before is called silent. This process may have no way of its own
   to a peer that serves well behind a router. ``introduce`` pings a peer once, so that it counts.
4. A silent peer is remembered for ``SILENT_S`` or until it answers. ``check`` pings all the peers
   that it is given, as a gateway does again and again. ``suspect`` pings peers that a session lost:
   a hoster that died is not to be tried by every later answer until its heartbeat expires.

No time here is of the wall clock, so a clock that jumps makes no peer silent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keys.peer import PeerId
from mesh.errors import MeshError, PeerMisbehaved, PeerRefusal
from mesh.p2p.interface import Host
from mesh.p2p.owned_tasks import OwnedTasks
from mesh.routing.info import INFO_METHOD

PING_AFTER_S = 0.4
PING_S = 1.25
PERIOD_S = 0.75
MISSES = 2
SILENT_S = 60.0
MAX_PEERS = 2048
MAX_CHECKED = 128
"""Peers that one ``check`` pings; where there are more, the next one goes on with the others."""

OnSilent = Callable[[PeerId], None]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Peer:
    """What is known of one peer. ``misses`` are pings in a row without an answer.

    ``is_pinged`` while a task pings it; that sends one ping more for ``is_due``.
    """

    has_answered: bool = False
    misses: int = 0
    silent_until: float | None = None
    is_pinged: bool = False
    is_due: bool = False
    waiting: set[_Waiting] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A caller that waits for a peer, and how many misses mean silence to it."""

    on_silent: OnSilent
    misses: int


class PeerWatch:
    """Pings the peers that a process waits for.

    ``connect`` dials a peer before a ping; ``forget`` hears of a missed one, so that the peer is
    dialled again: a relay ends its connections after a while.
    """

    def __init__(
        self,
        host: Host,
        connect: Callable[[PeerId], Awaitable[None]],
        *,
        forget: Callable[[PeerId], None] | None = None,
    ) -> None:
        self._host = host
        self._connect = connect
        self._forget = forget
        self._peers: dict[PeerId, _Peer] = {}
        self._tasks = OwnedTasks()
        self._next_checked = 0

    def list_silent(self) -> set[PeerId]:
        """Return the peers that are to be left out for the moment."""
        now_s = time.monotonic()
        return {
            peer
            for peer, known in self._peers.items()
            if known.silent_until is not None and now_s < known.silent_until
        }

    def introduce(self, peers: Iterable[PeerId]) -> None:
        """Ping in the background those that never answered, so that their silence can count."""
        for peer in peers:
            known = self._find(peer)
            if not known.has_answered:
                known.is_due = True
                self._start(peer, known)

    def suspect(self, peers: Iterable[PeerId]) -> None:
        """Ping in the background peers that a session lost; one miss makes them silent."""
        for peer in peers:
            known = self._find(peer)
            known.has_answered, known.misses = True, max(known.misses, MISSES - 1)
            known.is_due = True
            self._start(peer, known)

    @contextmanager
    def watch(
        self, peers: Iterable[PeerId], on_silent: OnSilent, *, misses: int = MISSES
    ) -> Iterator[None]:
        """Call ``on_silent`` with one of ``peers`` that falls silent while the block runs."""
        waiting, watched = _Waiting(on_silent, misses), tuple(peers)

        def begin() -> None:
            for peer in watched:
                known = self._find(peer)
                known.waiting.add(waiting)
                self._start(peer, known)

        timer = asyncio.get_running_loop().call_later(PING_AFTER_S, begin)
        try:
            yield
        finally:
            timer.cancel()
            for peer in watched:
                if (known := self._peers.get(peer)) is not None:
                    known.waiting.discard(waiting)

    async def check(self, peers: Iterable[PeerId]) -> None:
        """Ping ``peers``, those that miss a ping once more; note who is silent, and who is back."""
        ordered = sorted(peer for peer in peers if peer != self._host.peer_id)
        start = self._next_checked if self._next_checked < len(ordered) else 0
        chosen = ordered[start : start + MAX_CHECKED]
        self._next_checked = start + MAX_CHECKED

        async def check_one(peer: PeerId) -> None:
            known = self._find(peer)
            for _ in range(MISSES):
                if await self._ping(peer, known) or known.silent_until is not None:
                    return

        await asyncio.gather(*(check_one(peer) for peer in chosen))

    async def close(self) -> None:
        """End all pings."""
        await self._tasks.close()

    def _find(self, peer: PeerId) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                idle = (p for p, k in self._peers.items() if not k.is_pinged and not k.waiting)
                self._peers.pop(next(idle, peer), None)
            known = self._peers[peer] = _Peer()
        return known

    def _start(self, peer: PeerId, known: _Peer) -> None:
        if not known.is_pinged:
            known.is_pinged = True
            self._tasks.start(self._ping_on(peer, known))

    async def _ping_on(self, peer: PeerId, known: _Peer) -> None:
        """Ping while a caller waits for the peer, or a ping is due."""
        loop = asyncio.get_running_loop()
        try:
            while known.waiting or known.is_due:
                known.is_due, began_s = False, loop.time()
                await self._ping(peer, known)
                rest_s = began_s + PERIOD_S - loop.time()
                if known.waiting and rest_s > 0:
                    await asyncio.sleep(rest_s)
        finally:
            known.is_pinged = False

    async def _ping(self, peer: PeerId, known: _Peer) -> bool:
        """Whether a ping is answered. Tells those that wait when the peer counts as silent."""
        try:
            async with asyncio.timeout(PING_S):
                await self._connect(peer)
                await self._host.call(peer, INFO_METHOD, b"", timeout_s=PING_S)
        except (PeerRefusal, PeerMisbehaved):
            pass  # It answers, if not as it should.
        except (MeshError, TimeoutError) as error:
            self._note_miss(peer, known, error)
            return False
        known.has_answered, known.misses = True, 0
        if known.silent_until is not None:
            known.silent_until = None
            logger.info("a silent peer answers again: %s", peer)
        return True

    def _note_miss(self, peer: PeerId, known: _Peer, error: Exception) -> None:
        known.misses += 1
        if self._forget is not None:
            self._forget(peer)
        if not known.has_answered:
            return
        if known.misses >= MISSES:
            if known.silent_until is None:
                logger.info("a peer has fallen silent: %s", peer, extra={"detail": str(error)})
            known.silent_until = time.monotonic() + SILENT_S
        for waiting in tuple(known.waiting):
            if known.misses >= waiting.misses:
                waiting.on_silent(peer)
