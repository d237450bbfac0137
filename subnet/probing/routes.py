"""Routes of probes: through one hoster's whole committed range, or around it.

Companions are drawn, not the fastest ones: else one fast hoster would stand in every probe.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from random import Random

from keys.peer import PeerId
from mesh.errors import NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop, Route
from mesh.routing.routing import RouteServer, plan_route

PREFERRED_THROUGHPUT = 1e9
MAX_DRAWS = 8
"""Draws of a route: a companion drawn before the hoster may be the only one for after it."""


def plan_through(
    servers: Sequence[RouteServer],
    target: Hop,
    *,
    num_layers: int,
    random: Random,
    avoid: Collection[PeerId] = (),
) -> Route:
    """Return a route in which ``target`` runs its whole span. Raises NoRoute.

    Peers of ``avoid`` are taken only where no other peer covers a layer.
    """
    others = [server for server in servers if server.peer_id != target.peer_id]
    for draws_left in reversed(range(MAX_DRAWS)):
        before = _plan_stretch(others, LayerSpan(0, target.span.start), random=random, avoid=avoid)
        used = {hop.peer_id for hop in before}
        rest = [server for server in others if server.peer_id not in used]
        rest_span = LayerSpan(target.span.end, num_layers)
        try:
            after = _plan_stretch(rest, rest_span, random=random, avoid=avoid)
        except NoRoute:
            if not draws_left:
                raise
            continue
        return (*before, target, *after)
    raise AssertionError("a draw returns or raises")


def plan_around(
    servers: Sequence[RouteServer],
    target: PeerId,
    *,
    num_layers: int,
    random: Random,
    avoid: Collection[PeerId] = (),
    prefer: PeerId | None = None,
) -> Route:
    """Return a route without ``target``, through ``prefer`` if it helps. Raises NoRoute."""
    others = [server for server in servers if server.peer_id != target]
    whole = LayerSpan(0, num_layers)
    return _plan_stretch(others, whole, random=random, avoid=avoid, prefer=prefer)


def _plan_stretch(
    servers: Sequence[RouteServer],
    stretch: LayerSpan,
    *,
    random: Random,
    avoid: Collection[PeerId],
    prefer: PeerId | None = None,
) -> Route:
    """Return hops that cover ``stretch``, none for an empty one. Raises NoRoute."""
    if stretch.start == stretch.end:
        return ()
    clipped = [
        replace(
            server,
            span=LayerSpan(
                max(server.span.start, stretch.start) - stretch.start,
                min(server.span.end, stretch.end) - stretch.start,
            ),
            throughput=PREFERRED_THROUGHPUT if server.peer_id == prefer else random.uniform(1, 100),
        )
        for server in servers
        if server.span.start < stretch.end and server.span.end > stretch.start
    ]
    length = stretch.end - stretch.start
    try:
        planned = plan_route(clipped, num_layers=length, exclude=avoid)
    except NoRoute:
        planned = plan_route(clipped, num_layers=length)
    return tuple(
        Hop(hop.peer_id, LayerSpan(hop.span.start + stretch.start, hop.span.end + stretch.start))
        for hop in planned
    )
