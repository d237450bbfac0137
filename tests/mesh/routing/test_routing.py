"""Planning: the cheapest chain, who is left out, and what is missing."""

from __future__ import annotations

import math
import random
import time

import pytest

from keys.peer import PeerKey
from mesh.errors import NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.routing import FULL_CACHE_PENALTY, RouteServer, plan_route

PEERS = [PeerKey(bytes([i]) * 32).peer_id for i in range(1, 201)]


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


def compute_hop_cost(server, layers, cache_tokens):
    penalty = FULL_CACHE_PENALTY if server.free_cache_tokens < cache_tokens else 1.0
    return penalty * (server.hop_s + layers / server.throughput)


def search_exhaustively(servers, *, num_layers, max_layers, cache_tokens):
    """Try every end of every span: the lowest cost of a route, infinity if there is none."""
    best = math.inf

    def extend(layer, used, cost):
        nonlocal best
        if layer == num_layers:
            best = min(best, cost)
        for number, server in enumerate(servers):
            if number in used or layer not in server.span or cost >= best:
                continue
            for end in range(layer + 1, min(server.span.end, num_layers, layer + max_layers) + 1):
                hop = compute_hop_cost(server, end - layer, cache_tokens)
                extend(end, used | {number}, cost + hop)

    extend(0, frozenset(), 0.0)
    return best


def draw_servers(rng, count, num_layers):
    servers = []
    for number in range(count):
        start = rng.randrange(num_layers)
        end = rng.randint(start + 1, num_layers + 2)
        if rng.random() < 0.3:
            start, end = 0, num_layers
        options = {"throughput": rng.choice([100.0, 500.0, 1000.0, 3000.0])}
        options |= {"free": rng.choice([10, 1000]), "hop_s": rng.choice([0.0001, 0.001, 0.01])}
        servers.append(server(number, start, end, **options))
    return servers


def test_routes_are_as_cheap_as_those_of_an_exhaustive_search():
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    for _ in range(300):
        num_layers, cache_tokens = rng.randint(1, 9), rng.choice([0, 100])
        max_layers = rng.choice([None, 1, 2, 3, 4])
        servers = draw_servers(rng, rng.randint(1, 6), num_layers)
        best = search_exhaustively(
            servers,
            num_layers=num_layers,
            max_layers=max_layers or num_layers,
            cache_tokens=cache_tokens,
        )
        options = {"num_layers": num_layers, "max_layers_per_hop": max_layers}
        if math.isinf(best):
            with pytest.raises(NoRoute):
                plan_route(servers, cache_tokens=cache_tokens, **options)
            continue
        hops = plan_route(servers, cache_tokens=cache_tokens, **options)
        known = {server.peer_id: server for server in servers}
        cost = sum(compute_hop_cost(known[h.peer_id], len(h.span), cache_tokens) for h in hops)
        assert cost == pytest.approx(best)
        assert all(known[hop.peer_id].span.covers(hop.span) for hop in hops)
        assert [hop.span.start for hop in hops] == [0, *(hop.span.end for hop in hops[:-1])]
        assert hops[-1].span.end == num_layers
        assert len({hop.peer_id for hop in hops}) == len(hops)


@pytest.mark.parametrize("max_layers", [None, 8])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_route_among_two_hundred_hosters_is_found_at_once(is_whole, max_layers):
    rng = random.Random(3)
    servers = []
    for number in range(200):
        length = 32 if is_whole else rng.randint(4, 16)
        start = rng.randint(0, 32 - length)
        servers.append(server(number, start, start + length, throughput=rng.uniform(500, 3000)))
    started = time.process_time()
    plan_route(servers, num_layers=32, max_layers_per_hop=max_layers)
    # Trying every end of every span took 17 s for 20 hosters of whole models.
    assert time.process_time() - started < 0.5


def test_a_server_that_some_layers_need_is_kept_for_them():
    rng = random.Random(4)
    servers = [server(number, 0, 7, throughput=rng.uniform(500, 900)) for number in range(1, 150)]
    servers.append(server(0, 0, 8, throughput=10**6))
    hops = route_of(servers, max_layers_per_hop=2)
    assert hops[-1][0] == 0
    assert [hop[1:] for hop in hops] == [(0, 2), (2, 4), (4, 6), (6, 8)]
