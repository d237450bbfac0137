"""Limits and freshness, with a clock in the test's hand."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mesh.errors import PeerRefusal
from mesh.p2p.rpc_guard import TIME_WINDOW_MS, NonceCache, PeerBuckets, Slots
from tests.support.p2p import make_key

ALICE, BOB, CAROL = (make_key(name).peer_id for name in ("alice", "bob", "carol"))


def _nonce(number: int) -> bytes:
    return number.to_bytes(16, "little")


def test_a_nonce_is_remembered_as_long_as_its_request_is_fresh() -> None:
    cache = NonceCache()
    cache.remember(ALICE, _nonce(1), now_ms=0)
    for now_ms in (0, TIME_WINDOW_MS, 2 * TIME_WINDOW_MS):
        with pytest.raises(PeerRefusal, match="replayed"):
            cache.remember(ALICE, _nonce(1), now_ms=now_ms)
    cache.remember(ALICE, _nonce(1), now_ms=2 * TIME_WINDOW_MS + 1)
    assert len(cache) == 1


def test_the_same_nonce_of_two_peers_is_two_nonces() -> None:
    cache = NonceCache()
    cache.remember(ALICE, _nonce(1), now_ms=0)
    cache.remember(BOB, _nonce(1), now_ms=0)


def test_one_peer_cannot_fill_the_nonce_cache_for_others() -> None:
    cache = NonceCache(max_nonces=100, max_per_peer=3)
    for number in range(3):
        cache.remember(ALICE, _nonce(number), now_ms=0)
    with pytest.raises(PeerRefusal, match="busy"):
        cache.remember(ALICE, _nonce(3), now_ms=0)
    cache.remember(BOB, _nonce(0), now_ms=0)
    cache.remember(ALICE, _nonce(3), now_ms=2 * TIME_WINDOW_MS + 1)


def test_a_full_nonce_cache_refuses_instead_of_forgetting() -> None:
    cache = NonceCache(max_nonces=2, max_per_peer=2)
    cache.remember(ALICE, _nonce(1), now_ms=0)
    cache.remember(BOB, _nonce(1), now_ms=0)
    with pytest.raises(PeerRefusal, match="busy"):
        cache.remember(CAROL, _nonce(1), now_ms=0)
    with pytest.raises(PeerRefusal, match="replayed"):
        cache.remember(ALICE, _nonce(1), now_ms=0)


def test_a_bucket_refills_with_time_up_to_its_burst() -> None:
    buckets = PeerBuckets(rate=2.0, burst=3)
    for _ in range(3):
        buckets.take(ALICE, now_ms=0)
    with pytest.raises(PeerRefusal, match="rate"):
        buckets.take(ALICE, now_ms=0)
    buckets.take(BOB, now_ms=0)
    buckets.take(ALICE, now_ms=500)
    with pytest.raises(PeerRefusal, match="rate"):
        buckets.take(ALICE, now_ms=500)
    for _ in range(3):
        buckets.take(ALICE, now_ms=1_000_000)
    with pytest.raises(PeerRefusal, match="rate"):
        buckets.take(ALICE, now_ms=1_000_000)


def test_a_clock_that_steps_back_grants_nothing() -> None:
    buckets = PeerBuckets(rate=1.0, burst=1)
    buckets.take(ALICE, now_ms=10_000)
    with pytest.raises(PeerRefusal, match="rate"):
        buckets.take(ALICE, now_ms=0)


def test_the_buckets_of_many_peers_are_bounded() -> None:
    buckets = PeerBuckets(rate=1.0, burst=1, max_peers=2)
    for peer in (ALICE, BOB, CAROL):
        buckets.take(peer, now_ms=0)
    assert len(buckets) == 2


def test_slots_are_bounded_per_peer_and_in_all() -> None:
    slots = Slots(per_peer=1, total=2)
    with slots.hold(ALICE):
        with pytest.raises(PeerRefusal, match="busy"), slots.hold(ALICE):
            pass
        with slots.hold(BOB), pytest.raises(PeerRefusal, match="busy"), slots.hold(CAROL):
            pass
        with slots.hold(CAROL):
            pass
    with slots.hold(ALICE):
        pass


def test_a_slot_is_given_back_when_its_holder_fails() -> None:
    slots = Slots(per_peer=1, total=1)
    with pytest.raises(ZeroDivisionError), slots.hold(ALICE):
        raise ZeroDivisionError
    with slots.hold(ALICE):
        pass


def test_strangers_cannot_take_the_last_slots_from_members() -> None:
    slots = Slots(per_peer=4, total=8, is_member=lambda peer: peer == ALICE)
    with ExitStack() as held:
        for stranger in (BOB, BOB, BOB, BOB, CAROL, CAROL):
            held.enter_context(slots.hold(stranger))
        with pytest.raises(PeerRefusal, match="busy"), slots.hold(CAROL):
            pass
        with slots.hold(ALICE), slots.hold(ALICE):
            with pytest.raises(PeerRefusal, match="busy"), slots.hold(ALICE):
                pass
    with slots.hold(CAROL):
        pass


def test_members_may_use_what_strangers_leave() -> None:
    slots = Slots(per_peer=8, total=4, is_member=lambda peer: peer == ALICE)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(slots.hold(ALICE))
        with pytest.raises(PeerRefusal, match="busy"), slots.hold(BOB):
            pass


def test_strangers_cannot_fill_the_nonce_cache_for_members() -> None:
    cache = NonceCache(max_nonces=8, max_per_peer=8, is_member=lambda peer: peer == ALICE)
    for number in range(3):
        cache.remember(BOB, _nonce(number), now_ms=0)
        cache.remember(CAROL, _nonce(number), now_ms=0)
    with pytest.raises(PeerRefusal, match="busy"):
        cache.remember(BOB, _nonce(9), now_ms=0)
    cache.remember(ALICE, _nonce(1), now_ms=0)
    cache.remember(ALICE, _nonce(2), now_ms=0)
    # What has expired is everybody's again.
    for number in range(6):
        cache.remember(BOB, _nonce(number), now_ms=2 * TIME_WINDOW_MS + 1)


def test_a_slot_is_given_back_as_it_was_taken() -> None:
    members = {ALICE}
    slots = Slots(per_peer=8, total=4, is_member=members.__contains__)
    with slots.hold(BOB):
        members.add(BOB)
    members.clear()
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(slots.hold(BOB))
        with pytest.raises(PeerRefusal, match="busy"), slots.hold(CAROL):
            pass
