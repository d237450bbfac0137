"""Hosters fill the weakest layers, and move only when the swarm gains and keeps its coverage."""

from __future__ import annotations

import random

import pytest

from keys.peer import PeerKey
from mesh.model.config import LayerSpan
from mesh.routing.placement import (
    MAX_BOAST,
    PlacedServer,
    choose_move,
    choose_span,
    compute_layer_rates,
    draw_mover,
)

PEERS = [PeerKey(bytes([number]) * 32).peer_id for number in range(1, 40)]


def place(number, start, end, throughput=1000, *, is_online=True):
    return PlacedServer(PEERS[number], LayerSpan(start, end), throughput, is_online)


def test_the_first_hoster_starts_at_the_first_layer():
    assert choose_span([], num_layers=22, length=8) == LayerSpan(0, 8)
    assert choose_span([], num_layers=22, length=22) == LayerSpan(0, 22)


def test_hosters_that_come_one_by_one_cover_the_model():
    servers = []
    for number in range(3):
        span = choose_span(servers, num_layers=22, length=8)
        servers.append(PlacedServer(PEERS[number], span, 1000))
    assert min(compute_layer_rates(servers, num_layers=22)) > 0
    assert [server.span for server in servers] == [
        LayerSpan(0, 8),
        LayerSpan(8, 16),
        LayerSpan(14, 22),
    ]


def test_a_gap_is_filled_before_a_weak_layer():
    servers = [place(0, 0, 4), place(1, 4, 8, throughput=10), place(2, 12, 16)]
    assert choose_span(servers, num_layers=16, length=4) == LayerSpan(8, 12)


def test_the_weakest_layers_are_strengthened():
    servers = [place(0, 0, 4), place(1, 4, 8, throughput=300), place(2, 8, 12), place(3, 0, 12)]
    assert choose_span(servers, num_layers=12, length=4) == LayerSpan(4, 8)


def test_what_another_is_loading_is_taken():
    loading = place(0, 0, 4, throughput=0, is_online=False)
    assert choose_span([loading], num_layers=8, length=4) == LayerSpan(4, 8)


def test_a_long_range_gives_each_layer_less():
    rates = compute_layer_rates([place(0, 0, 8), place(1, 8, 10)], num_layers=10)
    assert rates == (125_000,) * 8 + (500_000,) * 2


def test_boasting_does_not_keep_others_away():
    honest = [place(number, 0, 4, throughput=1000) for number in range(3)]
    rates = compute_layer_rates([*honest, place(3, 4, 8, throughput=2**32 - 1)], num_layers=8)
    assert rates[4] == MAX_BOAST * 250_000
    # With three on the first half and a boaster of four honest shares on the other: the first.
    assert choose_span([*honest, place(3, 4, 8, 2**32 - 1)], num_layers=8, length=4).start == 0
    more = [*honest, *(place(number, 0, 4) for number in range(4, 8))]
    assert choose_span([*more, place(3, 4, 8, 2**32 - 1)], num_layers=8, length=4).start == 4


def test_the_order_of_heartbeats_does_not_matter():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    servers = []
    for number in range(12):
        start = chance.randrange(20)
        servers.append(place(number, start, start + chance.randrange(1, 23 - start), 100 * number))
    expected = choose_span(servers, num_layers=22, length=5)
    own = servers[3]
    moves = {choose_move(servers, own, num_layers=22, epoch=7)}
    for _ in range(20):
        chance.shuffle(servers)
        assert choose_span(servers, num_layers=22, length=5) == expected
        moves.add(choose_move(servers, own, num_layers=22, epoch=7))
    assert len(moves) == 1


@pytest.mark.parametrize("length", [0, -1, 9])
def test_an_impossible_length_is_refused(length):
    with pytest.raises(ValueError, match="8 layers"):
        choose_span([], num_layers=8, length=length)


def move_in_turn(servers, num_layers, epoch=1):
    """Return who would move in this epoch, and where."""
    moves = {
        server.peer_id: choose_move(servers, server, num_layers=num_layers, epoch=epoch)
        for server in servers
    }
    return {peer: span for peer, span in moves.items() if span is not None}


def test_a_gap_draws_exactly_one_of_the_spare_hosters():
    servers = [place(number, 0, 4) for number in range(6)]
    for epoch in range(20):
        moves = move_in_turn(servers, num_layers=8, epoch=epoch)
        assert list(moves.values()) == [LayerSpan(4, 8)]
        assert list(moves) == [draw_mover(servers, epoch=epoch)]


def test_turns_go_round():
    servers = [place(number, 0, 4) for number in range(6)]
    assert len({draw_mover(servers, epoch=epoch) for epoch in range(100)}) == 6


def test_nobody_leaves_a_layer_that_only_it_serves():
    servers = [place(0, 0, 5), place(1, 4, 8, throughput=1), place(2, 4, 8)]
    assert choose_move(servers, servers[0], num_layers=12, epoch=1) is None
    assert PEERS[0] not in move_in_turn(servers, num_layers=12)


def test_one_that_is_still_loading_does_not_count_as_coverage():
    servers = [place(0, 0, 4), place(1, 0, 4, is_online=False)]
    for epoch in range(10):
        assert move_in_turn(servers, num_layers=8, epoch=epoch) == {}


def test_a_balanced_swarm_stays():
    servers = [place(number, 4 * (number % 2), 4 * (number % 2) + 4) for number in range(6)]
    for epoch in range(20):
        assert move_in_turn(servers, num_layers=8, epoch=epoch) == {}


def test_a_small_gain_is_not_worth_a_move():
    """Five against four: the weakest side would gain nothing, hysteresis or not."""
    servers = [place(number, 0, 4) for number in range(5)]
    servers += [place(number, 4, 8) for number in range(5, 9)]
    for epoch in range(20):
        assert move_in_turn(servers, num_layers=8, epoch=epoch) == {}


@pytest.mark.long
def test_moves_come_to_rest_and_never_uncover_a_layer():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    servers = []
    for number in range(20):
        start = chance.randrange(13)
        servers.append(place(number, start, start + 4, chance.randrange(500, 1500)))
    uncovered = compute_layer_rates(servers, num_layers=16).count(0)
    quiet = 0
    for epoch in range(2000):
        moves = move_in_turn(servers, num_layers=16, epoch=epoch)
        assert len(moves) <= 1
        servers = [
            PlacedServer(s.peer_id, moves.get(s.peer_id, s.span), s.throughput) for s in servers
        ]
        left = compute_layer_rates(servers, num_layers=16).count(0)
        assert left <= uncovered
        uncovered, quiet = left, 0 if moves else quiet + 1
        if quiet == 200:
            break
    assert quiet == 200 and uncovered == 0
