"""A probe's routes: the hoster's whole range, drawn companions, and a way round it."""

from __future__ import annotations

from random import Random

import pytest

from keys.peer import PeerKey
from mesh.errors import NoRoute
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
from mesh.routing.routing import RouteServer
from subnet.probing.routes import plan_around, plan_through

PEERS = [PeerKey(bytes([number]) * 32).peer_id for number in range(1, 9)]


def serve(number, start, end):
    return RouteServer(PEERS[number], LayerSpan(start, end), 1000, 4096)


def through(servers, start, end, **options):
    target = Hop(PEERS[0], LayerSpan(start, end))
    options = {"random": Random(1), **options}
    return plan_through(servers, target, num_layers=8, **options)


def check(route):
    layers = [layer for hop in route for layer in range(hop.span.start, hop.span.end)]
    assert layers == list(range(8))
    assert len({hop.peer_id for hop in route}) == len(route)


@pytest.mark.parametrize("span", [(0, 8), (0, 3), (3, 8), (2, 5)])
def test_the_hoster_runs_its_whole_range(span):
    servers = [serve(0, *span), serve(1, 0, 8), serve(2, 0, 8), serve(3, 0, 4), serve(4, 4, 8)]
    for seed in range(20):
        route = through(servers, *span, random=Random(seed))
        check(route)
        assert Hop(PEERS[0], LayerSpan(*span)) in route


def test_a_committed_range_is_asked_for_whatever_is_announced():
    route = through([serve(0, 0, 1), serve(1, 0, 8)], 0, 8)
    assert route == (Hop(PEERS[0], LayerSpan(0, 8)),)
    assert through([], 0, 8) == route


def test_companions_are_drawn_and_not_the_fastest_ones():
    servers = [serve(number, 0, 4) for number in range(1, 6)]
    first = {through(servers, 4, 8, random=Random(seed))[0].peer_id for seed in range(60)}
    assert first == set(PEERS[1:6])


def test_suspects_are_avoided_where_there_is_a_way_round_them():
    servers = [serve(1, 0, 4), serve(2, 0, 4)]
    for seed in range(10):
        route = through(servers, 4, 8, random=Random(seed), avoid=[PEERS[1]])
        assert route[0].peer_id == PEERS[2]
    assert through(servers[:1], 4, 8, avoid=[PEERS[1]])[0].peer_id == PEERS[1]


def test_no_companion_no_route():
    with pytest.raises(NoRoute):
        through([serve(1, 0, 3)], 4, 8)
    with pytest.raises(NoRoute):
        through([], 0, 4)
    # One peer cannot stand on both sides.
    with pytest.raises(NoRoute):
        through([serve(1, 0, 8)], 2, 4)


def test_the_way_round_prefers_this_nodes_own_layers():
    servers = [serve(number, 0, 8) for number in range(6)]
    for seed in range(10):
        random = Random(seed)
        route = plan_around(servers, PEERS[0], num_layers=8, random=random, prefer=PEERS[3])
        assert [hop.peer_id for hop in route] == [PEERS[3]]
        check(plan_around(servers, PEERS[0], num_layers=8, random=random))
    with pytest.raises(NoRoute):
        plan_around(servers[:1], PEERS[0], num_layers=8, random=Random(1))


def test_a_companion_that_is_needed_after_the_hoster_is_not_used_before_it():
    servers = [serve(1, 0, 8), serve(2, 0, 2)]
    for seed in range(20):
        check(through(servers, 2, 4, random=Random(seed)))
