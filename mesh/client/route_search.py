"""Which route an answer takes, and which one it takes next when a hoster fails.

:class:`RoutePlanner` knows who serves what, for all answers of a client: it asks for the directory
and plans routes over it. :class:`RouteSearch` is one answer's: which peers it leaves out, and how
often another route was tried.

**Who is blamed.** An ERROR frame names a hop of the route; a broken stream is the first hop's.
While a token is awaited the hops are pinged, and one that no longer answers is to blame: its
machine is frozen or cut off, and no stream breaks (mesh/routing/peer_watch.py). Until it answers
again it is left out of the routes of other answers too. Where no hop is named (no token in time
though all answer, or a number that is not finite), the hops are asked a short question: those that
stay silent are left out, or all of the route if all answer. A refusal is no reason to give up
either, not even one that blames the request: the request was checked here.

**When no peer is left.** If leaving peers out leaves no route, the list is cleared after a pause
that doubles from ``FIRST_BACKOFF_S`` to ``MAX_BACKOFF_S``: busy hosters may have room, and
restarted ones may be back. Waiting for busy ones counts as no failure for ``busy_wait_s``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from keys.peer import PeerId
from mesh.client.refill import plan_refill
from mesh.client.route_session import HopFailed
from mesh.errors import (
    MeshError,
    NoRoute,
    PeerError,
    PeerUnreachable,
    SessionLost,
    SessionTooLong,
)
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Trace, TracedHop
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.features import Feature
from mesh.routing.hop import Route
from mesh.routing.peer_watch import PeerWatch
from mesh.routing.routing import RouteServer, compute_room, plan_route

MAX_REROUTES = 16
MAX_DIRECTORY_PEERS = 4
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 4.0
REFRESH_GRACE_S = 0.5
DIAL_S = 3.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How routes are chosen. ``max_layers_per_hop`` forces a route over several hosters.

    Hosters that are busy are asked again for ``busy_wait_s``; after that, being busy counts as any
    other failure, of which ``max_reroutes`` are allowed. Without ``refills`` every hop of a new
    route computes the whole text.
    """

    max_layers_per_hop: int | None = None
    max_reroutes: int = MAX_REROUTES
    busy_wait_s: float = 30.0
    refills: bool = True


class RoutePlanner:
    """Who serves which layers, and the routes over them. One for all answers of a client."""

    def __init__(
        self,
        host: Host,
        directory: Directory,
        watch: PeerWatch,
        *,
        config: ModelConfig,
        peers: Sequence[PeerId] = (),
        probe_s: float,
    ) -> None:
        """``peers`` are asked for the directory; a peer is silent after ``probe_s``."""
        self.directory = directory
        self.watch = watch
        self._host = host
        self._num_layers = config.num_layers
        self._row_size = 2 * config.hidden_size
        self._peers = tuple(peers)
        self._probe_s = probe_s
        self._draw = Random()

    async def refresh(self, *, without: Collection[PeerId] = ()) -> None:
        """Ask for the directory: the first peers, and servers it already names, for these may last
        longer than those. Several are asked, since one may know less than another; after the first
        answer the others have ``REFRESH_GRACE_S`` more. Silent peers and those of ``without`` are
        asked where there are no others.

        Raises a PeerError if none answers.
        """
        failures: list[PeerError] = []
        silent = self.watch.list_silent() | set(without)

        async def ask(peer: PeerId) -> bool:
            try:
                await self.directory.ensure_connected(peer)
                await self.directory.fetch_from_peer(peer)
            except PeerError as error:
                failures.append(error)
                return False
            return True

        known = (server.peer_id for server in self.directory.list_route_servers())
        named = dict.fromkeys((*self._peers, *known))
        # All of them, if all are silent: one may be back.
        asked = ([peer for peer in named if peer not in silent] or [*named])[:MAX_DIRECTORY_PEERS]
        await _ask_briefly([ask(peer) for peer in asked])
        if asked and len(failures) == len(asked):
            raise failures[0]

    def plan(
        self,
        routing: RoutingOptions,
        *,
        exclude: set[PeerId],
        cache_tokens: int,
        needs: Collection[Feature] = (),
        prefer: Route = (),
    ) -> Route:
        """Plan a route over what the directory knows now, without silent peers, or ``prefer`` if it
        costs little more.

        Raises NoRoute.
        """
        return plan_route(
            self._list_servers(),
            num_layers=self._num_layers,
            max_layers_per_hop=routing.max_layers_per_hop,
            exclude=exclude | self.watch.list_silent(),
            cache_tokens=cache_tokens,
            needs=needs,
            draw=self._draw,
            prefer=prefer,
        )

    def plan_refill(
        self,
        route: Route,
        *,
        lost: Collection[PeerId],
        exclude: set[PeerId],
        cache_tokens: int,
        needs: Collection[Feature] = (),
        feature: Feature = Feature.REFILL,
    ) -> Route:
        """Return ``route`` with other hops, of those with ``feature``, in place of the lost ones.

        Raises NoRoute.
        """
        return plan_refill(
            self._list_servers(),
            route,
            lost=lost,
            exclude=exclude | self.watch.list_silent(),
            cache_tokens=cache_tokens,
            needs=needs,
            feature=feature,
        )

    def _list_servers(self) -> Sequence[RouteServer]:
        return self.directory.list_route_servers(row_size=self._row_size)

    def check_room(self, cache_tokens: int) -> None:
        """Raise SessionTooLong if no way through the hosters announces so many free tokens."""
        room = compute_room(self.directory.list_route_servers(), self._num_layers)
        if room < cache_tokens:
            raise SessionTooLong(cache_tokens, room)

    async def find_silent(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Return those of ``peers`` that do not answer a short question."""

        async def is_silent(peer: PeerId) -> bool:
            try:
                await fetch_info(self._host, peer, timeout_s=self._probe_s)
            except PeerError:
                return True
            return False

        silent = await asyncio.gather(*(is_silent(peer) for peer in peers))
        return [peer for peer, gone in zip(peers, silent, strict=True) if gone]


async def _ask_briefly(questions: Sequence[Coroutine[None, None, bool]]) -> None:
    """Wait until one has an answer, and ``REFRESH_GRACE_S`` more for the others."""
    async with asyncio.TaskGroup() as tasks:
        pending = {tasks.create_task(question) for question in questions}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending and any(task.result() for task in done):
                _, late = await asyncio.wait(pending, timeout=REFRESH_GRACE_S)
                for task in late:
                    task.cancel()
                return


class RouteSearch:
    """The routes of one answer: who is left out, and how often another route was tried."""

    def __init__(
        self,
        planner: RoutePlanner,
        routing: RoutingOptions,
        trace: Trace,
        *,
        needs: Collection[Feature] = (),
        prefer: Route = (),
        refilled_by: Feature = Feature.REFILL,
    ) -> None:
        """``prefer`` is a route that has the beginning of the text; hosters that fill a lost range
        again have ``refilled_by``.
        """
        self._refilled_by = refilled_by
        self._planner = planner
        self._needs = needs
        self._prefer = prefer
        self._routing = routing
        self._trace = trace
        self._route: Route = ()
        self._excluded: set[PeerId] = set()
        self._cache_tokens = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._failures = 0
        self._busy_until_s: float | None = None
        self._last_reason = RefusalReason.HOP_LOST

    async def find(self, cache_tokens: int) -> Route:
        """Return a route whose first hop has been dialled. Raises NoRoute or SessionLost.

        Where nothing is left, those that failed get another chance after a pause: they may
        have been busy, or back already.
        """
        self._cache_tokens = cache_tokens
        while True:
            try:
                route = await self._plan(cache_tokens)
                await self._dial(route[0].peer_id)
            except PeerUnreachable as error:
                await self.note_failure(
                    HopFailed(error.peer_id, RefusalReason.HOP_LOST, str(error))
                )
                continue
            except NoRoute:
                silent = self._planner.watch.list_silent()
                if not self._excluded and not silent:
                    raise
                self._excluded.clear()
                self._count("no route")
                await self._pause(silent)
                continue
            self._take(route)
            return route

    def follow(self, route: Route, cache_tokens: int, *, lost: Collection[PeerId] = ()) -> None:
        """Begin with a session that is open; ``lost`` are peers that it went on without."""
        self._cache_tokens = cache_tokens
        self._excluded |= set(lost)
        self._take(route)

    @property
    def excluded(self) -> Collection[PeerId]:
        """The peers that are left out."""
        return frozenset(self._excluded)

    def _take(self, route: Route) -> None:
        self._route = route
        self._trace.route = tuple(
            TracedHop(str(hop.peer_id), hop.span.start, hop.span.end) for hop in route
        )

    async def find_refill(self, failure: HopFailed) -> Route:
        """Leave the failed peer out; return the route with other hops in its place.

        Its first hop has been dialled. No hops if there are none: :meth:`find` plans anew then.
        Raises as :meth:`note_failure` does.
        """
        blamed = await self._note(failure)
        try:
            route = self._plan_refill(blamed)
        except NoRoute:
            await self._refresh()
            try:
                route = self._plan_refill(blamed)
            except NoRoute:
                return ()
        try:
            await self._dial(route[0].peer_id)
        except PeerUnreachable as error:
            await self.note_failure(HopFailed(error.peer_id, RefusalReason.HOP_LOST, str(error)))
            return ()
        self._take(route)
        self._trace.refills += 1
        return route

    def _plan_refill(self, lost: Collection[PeerId]) -> Route:
        return self._planner.plan_refill(
            self._route,
            lost=lost,
            exclude=self._excluded,
            cache_tokens=self._cache_tokens,
            needs=self._needs,
            feature=self._refilled_by,
        )

    async def _dial(self, peer: PeerId) -> None:
        """Raises PeerUnreachable. p2pd asks others for the addresses of a peer that is gone, and a
        frozen one among them answers late.
        """
        try:
            async with asyncio.timeout(DIAL_S):
                await self._planner.directory.ensure_connected(peer)
        except TimeoutError as error:
            raise PeerUnreachable(peer, f"no connection within {DIAL_S:g} s") from error

    async def _plan(self, cache_tokens: int) -> Route:
        plan = partial(
            self._planner.plan,
            self._routing,
            exclude=self._excluded,
            cache_tokens=cache_tokens,
            needs=self._needs,
            prefer=self._prefer,
        )
        try:
            return plan()
        except NoRoute:
            await self._refresh()
            return plan()

    async def note_failure(self, failure: HopFailed) -> None:
        """Leave the failed peer out from now on.

        Raises SessionLost after too many failures, SessionTooLong where none has cache for it.
        """
        await self._note(failure)
        await self._refresh()

    async def _note(self, failure: HopFailed) -> list[PeerId]:
        """Count a failure, and return the peers that are left out from now on."""
        self._trace.failures.append((failure.peer_id, failure.reason))
        self._last_reason = failure.reason
        if failure.reason is RefusalReason.CONTEXT_OVERFLOW:
            self._planner.check_room(self._cache_tokens)
        self._count(str(failure))
        logger.info("re-routing: %s", failure)
        blamed = [failure.peer_id] if failure.peer_id is not None else await self._find_blamed()
        for peer in blamed:
            self._excluded.add(peer)
            self._planner.directory.forget_connection(peer)
        if failure.reason in (RefusalReason.HOP_LOST, RefusalReason.TIMEOUT):
            self._planner.watch.suspect(blamed)
        return blamed

    async def _find_blamed(self) -> list[PeerId]:
        """Who is silent; everybody of the route when all of them answer a short question."""
        peers = [hop.peer_id for hop in self._route]
        return await self._planner.find_silent(peers) or peers

    def _count(self, detail: str) -> None:
        self._trace.reroutes += 1
        if self._last_reason is RefusalReason.BUSY and self._may_wait():
            return
        self._failures += 1
        if self._failures > self._routing.max_reroutes:
            raise SessionLost(
                f"gave up after {self._routing.max_reroutes} re-routes: {detail}", self._last_reason
            )

    def _may_wait(self) -> bool:
        """Whether the time to wait for busy hosters, from the first of them on, is not over."""
        now_s = time.monotonic()
        if self._busy_until_s is None:
            self._busy_until_s = now_s + self._routing.busy_wait_s
        return now_s < self._busy_until_s

    async def _refresh(self) -> None:
        try:
            await self._planner.refresh(without=self._excluded)
        except MeshError as error:
            logger.debug("the directory could not be refreshed: %s", error)

    async def _pause(self, silent: set[PeerId]) -> None:
        """Wait before another try, and see who of the silent peers is back."""
        await asyncio.sleep(self._backoff_s)
        await self._planner.watch.check(silent)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)


def list_needs(sampling: Sampling, *, has_receipt: bool = False) -> tuple[Feature, ...]:
    """Return what a session with this sampling needs of its hops beyond plain sessions."""
    wanted = {
        Feature.SHAPED: sampling.is_shaped,
        Feature.GRAMMAR: sampling.grammar is not None,
        Feature.RECEIPT: has_receipt,
    }
    return tuple(feature for feature, is_needed in wanted.items() if is_needed)
