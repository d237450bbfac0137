"""What a request cannot get away with before any handler runs: the guard alone, clock in hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keys.peer import PeerId, PeerKey
from mesh.errors import PeerRefusal
from mesh.p2p.rpc_guard import TIME_WINDOW_MS, RequestGuard, RpcLimits
from mesh.p2p.rpc_wire import Opening, OpeningKind, hash_payload, seal_opening
from tests.support.p2p import make_key

CLIENT, SERVER, OTHER = (make_key(name) for name in ("client", "server", "other"))
NETWORK = b"n" * 32
STARTED_MS = 1_700_000_000_000
NOW_MS = STARTED_MS + 5_000
OPENING = Opening(
    kind=OpeningKind.UNARY,
    method="mesh.info",
    network_id=NETWORK,
    client=CLIENT.peer_id,
    server=SERVER.peer_id,
    time_ms=NOW_MS,
    nonce=b"0123456789abcdef",
    binding=hash_payload(b""),
    payload_size=0,
)


def make_guard(own: PeerKey = SERVER, *, started_ms: int = STARTED_MS) -> RequestGuard:
    return RequestGuard(own.peer_id, RpcLimits(), started_ms=started_ms)


def check(
    guard: RequestGuard,
    opening: Opening = OPENING,
    *,
    raw: bytes | None = None,
    remote: PeerId = CLIENT.peer_id,
    now_ms: int = NOW_MS,
) -> None:
    guard.check(
        opening,
        raw or seal_opening(CLIENT, opening),
        remote=remote,
        network_ids=frozenset((NETWORK,)),
        now_ms=now_ms,
    )


def test_signed_rpc_of_now_passes() -> None:
    check(make_guard())


def test_unsigned_rpc_is_refused() -> None:
    unsigned = seal_opening(CLIENT, OPENING)[:-64] + bytes(64)
    with pytest.raises(PeerRefusal, match="bad-signature"):
        check(make_guard(), raw=unsigned)


def test_rpc_signed_by_another_key_is_refused() -> None:
    with pytest.raises(PeerRefusal, match="bad-signature"):
        check(make_guard(), raw=seal_opening(OTHER, OPENING))


@pytest.mark.parametrize("later_ms", [0, TIME_WINDOW_MS])
def test_replayed_rpc_is_refused(later_ms: int) -> None:
    guard = make_guard()
    check(guard)
    with pytest.raises(PeerRefusal, match="replayed"):
        check(guard, now_ms=NOW_MS + later_ms)


def test_rpc_dated_ahead_cannot_be_replayed_while_it_is_fresh() -> None:
    guard = make_guard()
    ahead = replace(OPENING, time_ms=NOW_MS + TIME_WINDOW_MS)
    check(guard, ahead)
    with pytest.raises(PeerRefusal, match="replayed"):
        check(guard, ahead, now_ms=NOW_MS + 2 * TIME_WINDOW_MS)
    with pytest.raises(PeerRefusal, match="stale"):
        check(guard, ahead, now_ms=NOW_MS + 2 * TIME_WINDOW_MS + 1)


def test_rpc_replayed_at_another_server_is_refused() -> None:
    with pytest.raises(PeerRefusal, match="wrong-server"):
        check(make_guard(OTHER))


def test_rpc_replayed_by_another_peer_is_refused() -> None:
    with pytest.raises(PeerRefusal, match="wrong-client"):
        check(make_guard(), remote=OTHER.peer_id)


@pytest.mark.parametrize("shift_ms", [-31_000, 31_000])
def test_rpc_of_another_time_is_refused(shift_ms: int) -> None:
    with pytest.raises(PeerRefusal, match="stale"):
        check(make_guard(started_ms=0), replace(OPENING, time_ms=NOW_MS + shift_ms))


def test_rpc_replayed_after_a_restart_is_refused() -> None:
    check(make_guard())
    with pytest.raises(PeerRefusal, match="older than this server"):
        check(make_guard(started_ms=NOW_MS + 1), now_ms=NOW_MS + 2)


def test_rpc_of_another_network_is_refused() -> None:
    with pytest.raises(PeerRefusal, match="wrong-network"):
        check(make_guard(), replace(OPENING, network_id=b"m" * 32))


def test_refused_rpc_takes_no_room_for_nonces() -> None:
    guard = make_guard()
    with pytest.raises(PeerRefusal):
        check(guard, raw=seal_opening(OTHER, OPENING))
    check(guard)
