"""What a client measures decides between hosters, and what they say of themselves does not."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from keys.peer import PeerKey
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop
from mesh.routing.hop_measures import (
    FAILED_HOP_S,
    FIRST_PAUSE_S,
    MAX_MEASURED,
    MAX_PAUSE_S,
    MIN_HOP_S,
    SURPLUS_HALF_LIFE_S,
    HopMeasures,
    TokenPace,
)
from mesh.routing.load import MAX_LOAD, Load, add_load, read_load
from mesh.routing.routing import RouteServer, plan_route

PEERS = [PeerKey(bytes([i]) * 32).peer_id for i in range(1, 7)]
NEAR, FAR, LIAR, OTHER = PEERS[:4]
WHOLE = LayerSpan(0, 8)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def measures(clock):
    return HopMeasures(clock)


def plan(measures, peers, *, throughput=(), sessions=(), draw=None, prefer=()):
    hops = measures.estimate_hops(peers)
    servers = [
        RouteServer(
            peer,
            WHOLE,
            dict(throughput).get(peer, 1000.0),
            10_000,
            hop_s,
            dict(sessions).get(peer, 0),
        )
        for peer, hop_s in zip(peers, hops, strict=True)
    ]
    return plan_route(servers, num_layers=8, draw=draw, prefer=prefer)


def test_the_nearer_of_two_equal_hosters_is_taken(measures):
    measures.note_round_trip(FAR, 0.2)
    measures.note_round_trip(NEAR, 0.02)
    assert plan(measures, [FAR, NEAR])[0].peer_id == NEAR


def test_a_hoster_that_answers_questions_fast_and_tokens_slowly_gains_one_answer(measures):
    measures.note_round_trip(LIAR, 0.001)
    measures.note_round_trip(NEAR, 0.02)
    says = {LIAR: 1e9}.items()
    assert plan(measures, [NEAR, LIAR], throughput=says)[0].peer_id == LIAR
    measures.note_answer([(LIAR, 8 / 1e9)], 0.3)
    assert plan(measures, [NEAR, LIAR], throughput=says)[0].peer_id == NEAR


def test_a_hoster_that_understates_itself_is_not_nearer_than_nothing(measures):
    measures.note_answer([(LIAR, 1.0)], 0.01)
    (hop_s,) = measures.estimate_hops([LIAR])
    assert hop_s == MIN_HOP_S


def test_slowness_is_forgiven_with_time(measures, clock):
    measures.note_round_trip(FAR, 0.02)
    measures.note_answer([(FAR, 0.0)], 5.0)
    (slow_s,) = measures.estimate_hops([FAR])
    clock.now_s += 20 * SURPLUS_HALF_LIFE_S
    (later_s,) = measures.estimate_hops([FAR])
    assert slow_s > 4 and later_s < 0.02


def test_an_unknown_hoster_is_as_far_as_the_usual_one(measures):
    for peer, seconds in zip(PEERS[:3], (0.01, 0.1, 1.0), strict=True):
        measures.note_round_trip(peer, seconds)
    (hop_s,) = measures.estimate_hops([PEERS[5]])
    assert hop_s == pytest.approx(0.05, rel=0.13)


def test_hosters_at_about_the_same_distance_take_turns(measures):
    for peer, seconds in zip(PEERS[:3], (0.100, 0.101, 0.102), strict=True):
        measures.note_round_trip(peer, seconds)
    draw = Random(1)
    taken = Counter(plan(measures, PEERS[:3], draw=draw)[0].peer_id for _ in range(300))
    assert min(taken[peer] for peer in PEERS[:3]) > 60


def test_a_crowded_hoster_is_left_to_its_crowd(measures):
    assert plan(measures, [NEAR, OTHER], sessions={NEAR: 8}.items())[0].peer_id == OTHER


def test_an_announced_crowd_is_bounded(measures):
    servers = [RouteServer(NEAR, WHOLE, 1000.0, 10_000, crowd=10**6)]
    assert servers[0].layer_s <= 5 / 1000


def is_last_resort(measures, peer):
    return measures.estimate_hops([peer])[0] >= FAILED_HOP_S


def test_a_hoster_that_fails_for_months_is_still_only_a_last_resort(measures):
    for _ in range(2000):
        measures.note_failure(NEAR)
    assert is_last_resort(measures, NEAR)


def test_a_failure_is_remembered_for_longer_each_time_and_a_success_ends_that(measures, clock):
    waits = []
    for _ in range(9):
        measures.note_failure(NEAR)
        before_s = clock.now_s
        while is_last_resort(measures, NEAR):
            assert plan(measures, [NEAR, FAR])[0].peer_id == FAR
            clock.now_s += FIRST_PAUSE_S / 2
        waits.append(clock.now_s - before_s)
    assert waits == sorted(waits) and waits[0] == FIRST_PAUSE_S and waits[-1] == MAX_PAUSE_S
    measures.note_failure(NEAR)
    measures.note_answer([(NEAR, 0.0)], None)
    assert not is_last_resort(measures, NEAR)
    measures.note_failure(NEAR)
    clock.now_s += FIRST_PAUSE_S
    assert not is_last_resort(measures, NEAR)


def test_the_only_hoster_is_used_although_it_failed(measures):
    measures.note_failure(NEAR)
    assert measures.estimate_hops([NEAR])[0] >= FAILED_HOP_S
    assert plan(measures, [NEAR])[0].peer_id == NEAR


def test_a_narrow_way_costs_more_than_a_wide_one(measures):
    for peer, bandwidth in ((NEAR, 10e6), (FAR, 100e3)):
        measures.note_round_trip(peer, 0.02)
        measures.note_transfer(peer, 100_000, 0.02 + 100_000 / bandwidth)
    near_s, far_s = measures.estimate_hops([NEAR, FAR], row_size=32_768)
    assert far_s > near_s + 1


def test_short_answers_measure_no_bandwidth(measures):
    measures.note_transfer(NEAR, 100, 0.02)
    assert measures.estimate_hops([NEAR], row_size=1 << 20) == measures.estimate_hops([NEAR])


def test_what_is_kept_of_strangers_is_bounded(measures):
    for number in range(MAX_MEASURED + 50):
        measures.note_failure(PeerKey(number.to_bytes(32)).peer_id)
    assert len(measures._peers) == MAX_MEASURED


def test_hosters_are_asked_in_turn(measures, clock):
    asked = []
    for _ in range(3):
        asked += measures.choose_oldest(PEERS, 2)
        clock.now_s += 1
    assert sorted(asked) == sorted(PEERS)


def test_a_slow_reader_makes_no_hoster_slow(clock):
    pace = TokenPace(clock)
    for number in range(20):
        pace.note_arrival()
        # Every other token is read late and waits already when it is asked for.
        clock.now_s += 5.0 if number % 2 else 0.0
        pace.note_wait()
        clock.now_s += 0.0 if number % 2 else 0.1
    assert pace.token_s == pytest.approx(0.1)


def test_a_few_tokens_measure_nothing(clock):
    pace = TokenPace(clock)
    pace.note_arrival()
    pace.note_wait()
    clock.now_s += 0.1
    pace.note_arrival()
    assert pace.token_s is None


def test_the_route_that_holds_the_beginning_is_taken_while_it_costs_little_more(measures):
    held = (Hop(FAR, WHOLE),)
    measures.note_round_trip(NEAR, 0.02)
    measures.note_round_trip(FAR, 0.025)
    assert plan(measures, [NEAR, FAR], prefer=held) == held
    assert plan(measures, [NEAR], prefer=held)[0].peer_id == NEAR
    measures.note_failure(FAR)
    assert plan(measures, [NEAR, FAR], prefer=held)[0].peer_id == NEAR


def test_a_route_of_other_layers_than_are_served_now_is_not_taken(measures):
    held = (Hop(FAR, LayerSpan(0, 12)),)
    assert plan(measures, [NEAR, FAR], prefer=held)[0].span == WHOLE


@pytest.mark.parametrize("software", ["mesh/0.2.0", "mesh/0.2.0;gs"])
def test_a_load_stands_behind_the_name_beside_anything_else(software):
    name = add_load(software, Load(12, 3), max_size=32)
    assert name.startswith(software) and read_load(name) == Load(12, 3)
    assert read_load("mesh/0.2.0;1.2;gs") == Load(1, 2)
    assert read_load(software) == Load()


@pytest.mark.parametrize(
    "text", ["mesh;12", "mesh;-1.2", "mesh;1.2.3", "mesh;99999.1", "12.3", ";\u0663.\u0664"]
)
def test_what_is_no_load_says_nothing(text):
    assert read_load(text) == Load()


def test_a_load_that_does_not_fit_is_left_out_and_a_huge_one_cut():
    assert add_load("m" * 30, Load(1, 2), max_size=32) == "m" * 30
    assert read_load(add_load("mesh", Load(10**9, 10**9), max_size=32)) == Load(MAX_LOAD, MAX_LOAD)
