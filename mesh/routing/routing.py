"""Which servers compute a request, in which order: pure planning over what they announce."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from keys.peer import PeerId
from mesh.errors import NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

MAX_ROUTE_HOPS = 32
DEFAULT_HOP_S = 0.001
FULL_CACHE_PENALTY = 10.0
_LABELS_PER_PLACE = 4


@dataclass(frozen=True, slots=True)
class RouteServer:
    """A live server as the planner sees it.

    ``throughput`` is in rows through one layer per second; ``hop_s`` is the measured or assumed
    time of one hop to it.
    """

    peer_id: PeerId
    span: LayerSpan
    throughput: float
    free_cache_tokens: int
    hop_s: float = DEFAULT_HOP_S


@dataclass(order=True, slots=True)
class _Label:
    """A partial route. ``order`` makes the heap's choice between equals deterministic."""

    cost_s: float
    order: int
    layer: int = field(compare=False)
    hops: tuple[Hop, ...] = field(compare=False)


def plan_route(
    servers: Sequence[RouteServer],
    *,
    num_layers: int,
    max_layers_per_hop: int | None = None,
    exclude: Collection[PeerId] = (),
    cache_tokens: int = 0,
) -> tuple[Hop, ...]:
    """Return the cheapest chain of distinct servers that covers every layer once.

    The cost of a hop is its travel time plus its layers' computing time; a server without
    ``cache_tokens`` free is a last resort, since what it announced may be old.
    Raises NoRoute naming the layers that nobody serves.
    """
    live = [server for server in servers if server.peer_id not in exclude]
    orders = itertools.count()
    heap = [_Label(0.0, next(orders), 0, ())]
    settled: dict[tuple[int, PeerId | None], int] = {}
    furthest = 0
    while heap:
        label = heapq.heappop(heap)
        if label.layer == num_layers:
            return label.hops
        place = (label.layer, label.hops[-1].peer_id if label.hops else None)
        settled[place] = settled.get(place, 0) + 1
        # A few labels a place, because the cheapest may have used up a server needed later.
        if settled[place] > _LABELS_PER_PLACE or len(label.hops) == MAX_ROUTE_HOPS:
            continue
        furthest = max(furthest, label.layer)
        for hop, cost_s in _extend(label, live, num_layers, max_layers_per_hop, cache_tokens):
            hops = (*label.hops, hop)
            heapq.heappush(heap, _Label(label.cost_s + cost_s, next(orders), hop.span.end, hops))
    raise NoRoute(find_uncovered(live, num_layers) or ((furthest, num_layers),))


def _extend(
    label: _Label,
    servers: Sequence[RouteServer],
    num_layers: int,
    max_layers_per_hop: int | None,
    cache_tokens: int,
) -> list[tuple[Hop, float]]:
    """Return every hop that may follow, with its cost in seconds."""
    used = {hop.peer_id for hop in label.hops}
    options = []
    for server in servers:
        if server.peer_id in used or label.layer not in server.span:
            continue
        limit = min(server.span.end, num_layers)
        if max_layers_per_hop is not None:
            limit = min(limit, label.layer + max_layers_per_hop)
        layer_s = 1.0 / max(server.throughput, 1e-3)
        penalty = FULL_CACHE_PENALTY if server.free_cache_tokens < cache_tokens else 1.0
        for end in range(label.layer + 1, limit + 1):
            cost_s = penalty * (server.hop_s + (end - label.layer) * layer_s)
            options.append((Hop(server.peer_id, LayerSpan(label.layer, end)), cost_s))
    return options


def find_uncovered(servers: Sequence[RouteServer], num_layers: int) -> tuple[tuple[int, int], ...]:
    """Return the half-open ranges of layers that no server covers."""
    gaps, layer = [], 0
    for server in sorted(servers, key=lambda server: server.span):
        if server.span.start > layer:
            gaps.append((layer, min(server.span.start, num_layers)))
        layer = max(layer, server.span.end)
        if layer >= num_layers:
            break
    if layer < num_layers:
        gaps.append((layer, num_layers))
    return tuple(gaps)
