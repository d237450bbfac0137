"""Which route an answer goes on over when a hop was lost, so that the other hops keep their caches.

mesh/inference/refills.py says what the hosters do. Where this finds no such route, the client
replays prompt and answer over a new one (mesh/client/client.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from keys.peer import PeerId
from mesh.client.route_session import HopFailed
from mesh.errors import NoRoute
from mesh.inference.refusals import RefusalReason
from mesh.inference.tickets import Ticket, TicketChain
from mesh.model.config import LayerSpan
from mesh.routing.features import Feature
from mesh.routing.hop import Route
from mesh.routing.routing import RouteServer, plan_route

MAX_VAIN_REFILLS = 2
"""Refills in a row that gave no token; a whole replay follows."""
LOSSES = frozenset(
    (
        RefusalReason.HOP_LOST,
        RefusalReason.BUSY,
        RefusalReason.DRAINING,
        RefusalReason.TIMEOUT,
    )
)
"""Failures after which what the other hops computed is right."""


class AnswerRefill:
    """The tickets of one answer, and whether it can go on with what its hosters have."""

    def __init__(self, *, is_wanted: bool, feature: Feature = Feature.REFILL) -> None:
        """``is_wanted`` False: every failure is followed by a whole replay.

        Every hop must announce ``feature``.
        """
        self._is_wanted = is_wanted
        self.feature = feature
        self._chain: TicketChain | None = None
        self._vain = 0
        self._has_token = False

    def begin(self, route: Route, servers: Sequence[RouteServer]) -> Ticket | None:
        """Return the ticket of a whole opening; None where a hop takes none, or is the only one."""
        able = {server.peer_id for server in servers if self.feature in server.features}
        is_possible = self._is_wanted and len(route) > 1
        self._chain, self._vain, self._has_token = None, 0, False
        if not is_possible or any(hop.peer_id not in able for hop in route):
            return None
        self._chain = TicketChain()
        return self._chain.make_next()

    def go_on(self) -> Ticket:
        """Return the ticket of an opening that goes on; :meth:`may_go_on` must have said so."""
        if self._chain is None:
            raise ValueError("the session cannot go on")
        self._vain += 1
        return self._chain.make_next()

    def note_token(self) -> None:
        """A token came: every range has computed the whole prompt."""
        self._has_token, self._vain = True, 0

    def may_go_on(self, failure: HopFailed) -> bool:
        """Whether the other hops may keep their caches after this failure."""
        if self._chain is None or not self._chain.left or not self._has_token:
            return False
        return failure.reason in LOSSES and self._vain < MAX_VAIN_REFILLS


def plan_refill(
    servers: Sequence[RouteServer],
    route: Route,
    *,
    lost: Collection[PeerId],
    exclude: Collection[PeerId],
    cache_tokens: int,
    needs: Collection[Feature] = (),
    feature: Feature = Feature.REFILL,
) -> Route:
    """Return ``route`` with other hops in place of the lost ones. Raises NoRoute.

    Each lost range goes to the cheapest servers with ``feature``, one or several.
    """
    kept = [hop for hop in route if hop.peer_id not in lost]
    gone = [hop.span for hop in route if hop.peer_id in lost]
    if not kept or not gone:
        raise NoRoute(tuple((span.start, span.end) for span in gone))
    staying = {hop.peer_id for hop in kept}
    # A server of many layers fills one of the lost ranges at most.
    candidates = [
        replace(server, span=span)
        for server in servers
        if server.peer_id not in staying and server.peer_id not in exclude
        if feature in server.features
        if (span := _find_overlap(server.span, gone)) is not None
    ]
    candidates += [
        RouteServer(hop.peer_id, hop.span, 1.0, cache_tokens, features=frozenset(Feature))
        for hop in kept
    ]
    found = plan_route(
        candidates, num_layers=route[-1].span.end, cache_tokens=cache_tokens, needs=needs
    )
    if not set(kept) <= set(found):
        raise NoRoute(tuple((span.start, span.end) for span in gone))
    return found


def _find_overlap(span: LayerSpan, gone: Sequence[LayerSpan]) -> LayerSpan | None:
    """Return the largest part of a lost range that a span covers, None if there is none."""
    parts = [(max(span.start, lost.start), min(span.end, lost.end)) for lost in gone]
    start, end = max(parts, key=lambda part: part[1] - part[0])
    return LayerSpan(start, end) if start < end else None
