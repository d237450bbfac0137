"""Which servers compute a request, in which order: pure planning over what they announce.

For a given order of servers the cost of a route is linear in the layers where one server hands
over to the next. A cheapest route therefore exists whose handovers lie on the ends of spans, or a
multiple of ``max_layers_per_hop`` away from one: only these layers ("cuts") are tried.

The search is A*. The bound on the rest of a route ignores that servers must be distinct, so it is
never too high, and the first complete route is a cheapest one. ``MAX_TRIES_PER_CUT`` bounds the
time where a hop limit makes many distinct servers necessary; a route can then be dearer than the
cheapest.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from keys.peer import PeerId
from mesh.errors import NoCapableRoute, NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.features import NAMES, Feature
from mesh.routing.hop import Hop, Route

MAX_ROUTE_HOPS = 32
DEFAULT_HOP_S = 0.001
FULL_CACHE_PENALTY = 10.0
MAX_TRIES_PER_CUT = 64
BATCH_SESSIONS = 16
"""So many sessions in one batch take about twice the time of one."""
MAX_LOAD = 64
PREFIX_WORTH = 1.5
"""A route that holds the beginning of a prompt may cost so much of the cheapest one."""


@dataclass(frozen=True, slots=True)
class RouteServer:
    """A live server as the planner sees it.

    ``throughput`` is in rows through one layer per second; ``hop_s`` is the assumed time
    of one hop to it. ``crowd`` sessions are open there, by its own word: computing takes longer
    beside many. ``features`` are what it can do beyond plain sessions.
    """

    peer_id: PeerId
    span: LayerSpan
    throughput: float
    free_cache_tokens: int
    hop_s: float = DEFAULT_HOP_S
    crowd: int = 0
    features: frozenset[Feature] = frozenset()

    @property
    def layer_s(self) -> float:
        """The time of one row through one layer."""
        slower = 1 + min(self.crowd, MAX_LOAD) / BATCH_SESSIONS
        return slower / max(self.throughput, 1e-3)


def plan_route(
    servers: Sequence[RouteServer],
    *,
    num_layers: int,
    max_layers_per_hop: int | None = None,
    exclude: Collection[PeerId] = (),
    cache_tokens: int = 0,
    needs: Collection[Feature] = (),
    draw: Random | None = None,
    prefer: Route = (),
) -> tuple[Hop, ...]:
    """Return the cheapest chain of distinct servers that covers every layer once.

    The cost of a hop is its travel time plus its layers' computing time; a server without
    ``cache_tokens`` free is a last resort, since what it announced may be old. ``needs`` are what
    the session needs of its hops. ``draw`` decides between equals. ``prefer`` is taken if it is
    still possible and costs little more. Raises NoRoute naming the layers that no server covers, or
    NoCapableRoute if only servers that cannot do this cover them.
    """
    live = [server for server in servers if server.peer_id not in exclude]
    if draw is not None:
        draw.shuffle(live)
    for feature in needs:
        able = _keep_able(live, feature, num_layers)
        lacking = find_uncovered(able, num_layers)
        if lacking and not find_uncovered(live, num_layers):
            raise NoCapableRoute(lacking, NAMES[feature])
        live = able
    max_layers = min(max_layers_per_hop or num_layers, num_layers)
    narrowed = _narrow(live, num_layers, max_layers)
    uncovered = find_uncovered(narrowed, num_layers)
    if uncovered:
        raise NoRoute(uncovered)
    graph = _Graph(narrowed, num_layers, max_layers=max_layers, cache_tokens=cache_tokens)
    cheapest = _search(graph)
    if not prefer or any(len(hop.span) > max_layers for hop in prefer):
        return cheapest
    own_s, best_s = (compute_cost(live, route, cache_tokens) for route in (prefer, cheapest))
    return prefer if own_s <= PREFIX_WORTH * best_s else cheapest


def compute_cost(servers: Sequence[RouteServer], route: Route, cache_tokens: int) -> float:
    """Return the seconds of a token over a route; infinity if a hop of it is not served."""
    by_peer = {server.peer_id: server for server in servers}
    cost_s = 0.0
    for hop in route:
        server = by_peer.get(hop.peer_id)
        if server is None or not server.span.covers(hop.span):
            return math.inf
        penalty = FULL_CACHE_PENALTY if server.free_cache_tokens < cache_tokens else 1.0
        cost_s += penalty * (server.hop_s + len(hop.span) * server.layer_s)
    return cost_s


def _keep_able(
    servers: Sequence[RouteServer], feature: Feature, num_layers: int
) -> list[RouteServer]:
    """Return the servers for a session that needs a feature: those without it only for layers
    where nothing is asked of them.
    """
    able = []
    for server in servers:
        if feature in server.features:
            able.append(server)
        elif feature is Feature.GRAMMAR:
            start, end = server.span.start, min(server.span.end, num_layers - 1)
            if start < end:
                able.append(replace(server, span=LayerSpan(start, end)))
    return able


def _narrow(
    servers: Sequence[RouteServer], num_layers: int, max_layers: int
) -> Sequence[RouteServer]:
    """Cut the spans of servers that alone cover some layers to what one hop there can reach."""
    if max_layers == num_layers:
        return servers
    spans = {server.peer_id: server.span for server in servers}
    for layer in range(num_layers):
        covering = [peer for peer, span in spans.items() if layer in span]
        if len(covering) == 1:
            span = spans[covering[0]]
            spans[covering[0]] = LayerSpan(
                max(span.start, layer + 1 - max_layers), min(span.end, layer + max_layers)
            )
    return [replace(server, span=spans[server.peer_id]) for server in servers]


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


_Candidate = tuple[float, int, int]
"""The cost of a hop and the bound after it, the server, the cut where the hop ends."""


def compute_room(servers: Sequence[RouteServer], num_layers: int) -> int:
    """Return the most cache tokens that a session can get everywhere on its way; 0 if no way."""
    return min(
        max((server.free_cache_tokens for server in servers if layer in server.span), default=0)
        for layer in range(num_layers)
    )


class _Graph:
    """The cuts, and what hops between them cost, in seconds.

    ``cuts`` are layers; a cut is named by its place there. ``rest_s[cut]`` bounds the cost from a
    cut to the end from below.
    """

    def __init__(
        self, servers: Sequence[RouteServer], num_layers: int, *, max_layers: int, cache_tokens: int
    ) -> None:
        self.cuts = _list_cuts(servers, num_layers, max_layers)
        self.last_cut = len(self.cuts) - 1
        self.rest_s = [0.0] * len(self.cuts)
        self._servers, self._max_layers = servers, max_layers
        self._starts = np.array([server.span.start for server in servers])[:, None]
        self._ends = np.array([server.span.end for server in servers])[:, None]
        free = np.array([[server.free_cache_tokens] for server in servers])
        penalty = np.where(free < cache_tokens, FULL_CACHE_PENALTY, 1.0)
        self._hop_s = penalty * [[server.hop_s] for server in servers]
        self._layer_s = penalty * [[server.layer_s] for server in servers]
        self._covers = [
            sum(1 << number for number, server in enumerate(servers) if start in server.span)
            for start in self.cuts[:-1]
        ]
        for cut in reversed(range(self.last_cut)):
            self.rest_s[cut] = float(self._compute_bounds(cut).min())
        self.list_hops = lru_cache(maxsize=None)(self._list_hops)

    def _compute_bounds(self, cut: int) -> NDArray[np.float64]:
        """Return the cost of each hop from ``cut`` with the bound after it: [server, later cut]."""
        start, ends = self.cuts[cut], np.array(self.cuts[cut + 1 :])
        costs = self._hop_s + (ends - start) * self._layer_s
        is_possible = (self._starts <= start) & (ends <= self._ends)
        is_possible &= ends <= start + self._max_layers
        return np.where(is_possible, costs + self.rest_s[cut + 1 :], np.inf)

    def _list_hops(self, cut: int) -> list[_Candidate]:
        """Return the hops from ``cut``, those with the lowest bound first."""
        bounds = self._compute_bounds(cut)
        order = np.argsort(bounds, axis=None, kind="stable")[: np.isfinite(bounds).sum()]
        numbers, ends = np.unravel_index(order, bounds.shape)
        lists = (bounds.ravel()[order].tolist(), numbers.tolist(), (ends + cut + 1).tolist())
        return list(zip(*lists, strict=True))

    def make_hop(self, number: int, cut: int, end: int) -> Hop:
        """Return the hop of a server from one cut to another."""
        return Hop(self._servers[number].peer_id, LayerSpan(self.cuts[cut], self.cuts[end]))

    def is_dead_end(self, cut: int, used: int) -> bool:
        """Whether some layers after ``cut`` are covered only by servers that are ``used``."""
        return any(not cover & ~used for cover in self._covers[cut:])


def _list_cuts(servers: Sequence[RouteServer], num_layers: int, max_layers: int) -> list[int]:
    ends = {0, num_layers}
    for server in servers:
        ends.update((server.span.start, server.span.end))
    if max_layers == num_layers:
        return sorted(end for end in ends if end <= num_layers)
    phases = {end % max_layers for end in ends if end <= num_layers}
    return [layer for layer in range(num_layers + 1) if layer % max_layers in phases]


@dataclass(order=True, slots=True)
class _Label:
    """A partial route up to a cut, and the place of the next hop to try among those of the cut.

    The heap takes the lowest bound, then the longest route. ``used`` has the servers' bits.
    """

    bound_s: float
    order: tuple[int, int]
    place: int = field(compare=False)
    cost_s: float = field(compare=False)
    cut: int = field(compare=False)
    hops: tuple[Hop, ...] = field(compare=False)
    used: int = field(compare=False)


def _search(graph: _Graph) -> tuple[Hop, ...]:
    """Return a cheapest route. Raises NoRoute."""
    heap: list[_Label] = []
    orders, tries, seen = itertools.count(), Counter[int](), set[tuple[int, int]]()

    def offer(cost_s: float, cut: int, hops: tuple[Hop, ...], used: int, place: int = 0) -> None:
        """Queue the first hop from ``place`` on whose server is not used."""
        candidates = graph.list_hops(cut)
        while place < len(candidates) and used >> candidates[place][1] & 1:
            place += 1
        if place < len(candidates):
            bound_s, order = cost_s + candidates[place][0], (-cut, next(orders))
            heapq.heappush(heap, _Label(bound_s, order, place, cost_s, cut, hops, used))

    offer(0.0, 0, (), 0)
    furthest = 0
    while heap:
        label = heapq.heappop(heap)
        bound_s, server, end = graph.list_hops(label.cut)[label.place]
        hops, used = (*label.hops, graph.make_hop(server, label.cut, end)), label.used | 1 << server
        if end == graph.last_cut:
            return hops
        tries[label.cut] += 1
        if tries[label.cut] > MAX_TRIES_PER_CUT:
            continue
        furthest = max(furthest, end)
        offer(label.cost_s, label.cut, label.hops, label.used, label.place + 1)
        is_new = (end, used) not in seen
        if is_new and len(hops) < MAX_ROUTE_HOPS and not graph.is_dead_end(end, used):
            seen.add((end, used))
            offer(label.cost_s + bound_s - graph.rest_s[end], end, hops, used)
    raise NoRoute(((graph.cuts[furthest], graph.cuts[-1]),))
