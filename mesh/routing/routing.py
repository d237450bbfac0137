"""Which servers compute a request, in which order: pure planning over what they announce."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from keys.peer import PeerId
from mesh.errors import NoRoute
from mesh.model.config import BlockSpan

MAX_ROUTE_HOPS = 32
DEFAULT_HOP_S = 0.001
FULL_CACHE_PENALTY = 10.0
_LABELS_PER_PLACE = 4


@dataclass(frozen=True, slots=True)
class RouteServer:
    """A live server as the planner sees it.

    ``throughput`` is in rows through one block per second; ``hop_s`` is the measured or assumed
    time of one hop to it.
    """

    peer_id: PeerId
    span: BlockSpan
    throughput: float
    free_cache_tokens: int
    hop_s: float = DEFAULT_HOP_S


@dataclass(frozen=True, slots=True)
class RouteHop:
    """One part of a route."""

    peer_id: PeerId
    span: BlockSpan


@dataclass(order=True, slots=True)
class _Label:
    """A partial route. ``order`` makes the heap's choice between equals deterministic."""

    cost_s: float
    order: int
    block: int = field(compare=False)
    hops: tuple[RouteHop, ...] = field(compare=False)


def plan_route(
    servers: Sequence[RouteServer],
    *,
    num_blocks: int,
    max_blocks_per_hop: int | None = None,
    exclude: Collection[PeerId] = (),
    cache_tokens: int = 0,
) -> tuple[RouteHop, ...]:
    """Return the cheapest chain of distinct servers that covers every block once.

    The cost of a hop is its travel time plus its blocks' computing time; a server without
    ``cache_tokens`` free is a last resort, since what it announced may be old.
    Raises NoRoute naming the blocks that nobody serves.
    """
    live = [server for server in servers if server.peer_id not in exclude]
    orders = itertools.count()
    heap = [_Label(0.0, next(orders), 0, ())]
    settled: dict[tuple[int, PeerId | None], int] = {}
    furthest = 0
    while heap:
        label = heapq.heappop(heap)
        if label.block == num_blocks:
            return label.hops
        place = (label.block, label.hops[-1].peer_id if label.hops else None)
        settled[place] = settled.get(place, 0) + 1
        # A few labels a place, because the cheapest may have used up a server needed later.
        if settled[place] > _LABELS_PER_PLACE or len(label.hops) == MAX_ROUTE_HOPS:
            continue
        furthest = max(furthest, label.block)
        for hop, cost_s in _extend(label, live, num_blocks, max_blocks_per_hop, cache_tokens):
            hops = (*label.hops, hop)
            heapq.heappush(heap, _Label(label.cost_s + cost_s, next(orders), hop.span.end, hops))
    raise NoRoute(find_uncovered(live, num_blocks) or ((furthest, num_blocks),))


def _extend(
    label: _Label,
    servers: Sequence[RouteServer],
    num_blocks: int,
    max_blocks_per_hop: int | None,
    cache_tokens: int,
) -> list[tuple[RouteHop, float]]:
    """Return every hop that may follow, with its cost in seconds."""
    used = {hop.peer_id for hop in label.hops}
    options = []
    for server in servers:
        if server.peer_id in used or label.block not in server.span:
            continue
        limit = min(server.span.end, num_blocks)
        if max_blocks_per_hop is not None:
            limit = min(limit, label.block + max_blocks_per_hop)
        block_s = 1.0 / max(server.throughput, 1e-3)
        penalty = FULL_CACHE_PENALTY if server.free_cache_tokens < cache_tokens else 1.0
        for end in range(label.block + 1, limit + 1):
            cost_s = penalty * (server.hop_s + (end - label.block) * block_s)
            options.append((RouteHop(server.peer_id, BlockSpan(label.block, end)), cost_s))
    return options


def find_uncovered(servers: Sequence[RouteServer], num_blocks: int) -> tuple[tuple[int, int], ...]:
    """Return the half-open ranges of blocks that no server covers."""
    gaps, block = [], 0
    for server in sorted(servers, key=lambda server: server.span):
        if server.span.start > block:
            gaps.append((block, min(server.span.start, num_blocks)))
        block = max(block, server.span.end)
        if block >= num_blocks:
            break
    if block < num_blocks:
        gaps.append((block, num_blocks))
    return tuple(gaps)
