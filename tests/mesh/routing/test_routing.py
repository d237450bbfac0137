"""Planning: the cheapest chain, who is left out, and what is missing."""

from __future__ import annotations

import random

import pytest

from keys.peer import PeerKey
from mesh.errors import NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.routing import RouteServer, plan_route

PEERS = [PeerKey(bytes([i]) * 32).peer_id for i in range(1, 13)]


def server(number, start, end, *, throughput=1000.0, free=10_000, hop_s=0.001):
    return RouteServer(PEERS[number], LayerSpan(start, end), throughput, free, hop_s)


def route_of(servers, **options):
    hops = plan_route(servers, num_layers=8, **options)
    return [(PEERS.index(hop.peer_id), hop.span.start, hop.span.end) for hop in hops]


def test_one_server_is_cheaper_than_two_hops():
    assert route_of([server(0, 0, 4), server(1, 4, 8), server(2, 0, 8)]) == [(2, 0, 8)]


def test_fast_servers_are_worth_a_hop():
    slow = server(0, 0, 8, throughput=10.0)
    assert route_of([slow, server(1, 0, 4), server(2, 4, 8)]) == [(1, 0, 4), (2, 4, 8)]


def test_measured_hop_times_count():
    far, near = server(0, 0, 8, hop_s=0.5), server(1, 0, 8)
    assert route_of([far, near]) == [(1, 0, 8)]


def test_overlaps_are_used_in_part():
    assert route_of([server(0, 0, 5), server(1, 3, 8)]) in (
        [(0, 0, cut), (1, cut, 8)] for cut in (3, 4, 5)
    )


def test_bound_on_layers_per_hop_spreads_the_route_over_distinct_servers():
    servers = [server(0, 0, 8), server(1, 0, 8), server(2, 2, 6)]
    hops = route_of(servers, max_layers_per_hop=4)
    assert len({peer for peer, _, _ in hops}) == len(hops) >= 2
    assert all(end - start <= 4 for _, start, end in hops)
    with pytest.raises(NoRoute):
        route_of(servers[:1], max_layers_per_hop=4)


def test_excluded_peers_are_left_out():
    servers = [server(0, 0, 8, throughput=10**6), server(1, 0, 8)]
    assert route_of(servers, exclude={PEERS[0]}) == [(1, 0, 8)]
    with pytest.raises(NoRoute, match="0:8"):
        route_of(servers, exclude=set(PEERS))


def test_full_cache_is_a_last_resort():
    full, free = server(0, 0, 8, throughput=2000.0, free=10), server(1, 0, 8)
    assert route_of([full, free], cache_tokens=100) == [(1, 0, 8)]
    assert route_of([full], cache_tokens=100) == [(0, 0, 8)]


def test_no_route_names_the_uncovered_ranges():
    with pytest.raises(NoRoute) as refused:
        route_of([server(0, 1, 3), server(1, 2, 4), server(2, 6, 7)])
    assert refused.value.uncovered == ((0, 1), (4, 6), (7, 8))


def test_ranges_beyond_the_model_are_cut():
    assert route_of([server(0, 0, 900)]) == [(0, 0, 8)]


def test_any_full_coverage_gives_a_valid_route():
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    for _ in range(100):
        servers = [server(0, 0, rng.randint(1, 8))]
        while servers[-1].span.end < 8:
            last = servers[-1].span.end
            start = rng.randint(max(0, last - 2), last)
            servers.append(server(len(servers), start, rng.randint(last + 1, 8)))
        rng.shuffle(servers)
        hops = route_of(servers)
        assert hops[0][1] == 0
        assert hops[-1][2] == 8
        assert all(a[2] == b[1] for a, b in zip(hops, hops[1:], strict=False))
