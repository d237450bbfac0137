"""A relay grants the limits that it was given, after any start."""

from __future__ import annotations

import pytest

from keys.peer import PeerKey
from mesh.errors import DaemonFailed, PeerUnreachable
from mesh.p2p import relay_start
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.relay_start import MAX_STARTS, list_own_addresses, run_relay
from mesh.p2p.reservations import Reservation

LIMITS = RelayLimits(max_time_s=300, max_bytes=1 << 25)
CONFIG = HostConfig(
    key=PeerKey.generate(), host_maddrs=("/ip4/127.0.0.1/tcp/0",), relay_service=LIMITS
)
OWN_OF_P2PD = Reservation(120, 1 << 17)
ASKED_FOR = Reservation(300, 1 << 25)


@pytest.fixture
def grants(monkeypatch: pytest.MonkeyPatch) -> list[Reservation | Exception]:
    """What the next starts grant; the relay itself is asked once this is empty."""
    planned: list[Reservation | Exception] = []
    fetch = relay_start.fetch_reservation

    async def answer(*asked: object) -> Reservation:
        if not planned:
            return await fetch(*asked)  # type: ignore[arg-type]
        grant = planned.pop(0)
        if isinstance(grant, Exception):
            raise grant
        return grant

    monkeypatch.setattr(relay_start, "fetch_reservation", answer)
    return planned


async def test_a_relay_that_came_up_with_limits_of_its_own_is_started_again(
    grants: list[Reservation | Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    grants[:] = [OWN_OF_P2PD, OWN_OF_P2PD, ASKED_FOR]
    async with run_relay(CONFIG, LIMITS) as daemon:
        assert await daemon.fetch_addresses()
    starts = [line for line in caplog.messages if line.startswith("p2pd is")]
    # Each relay, and each p2pd that asked it.
    assert len(starts) == 6
    assert caplog.text.count("starting it again") == 2


async def test_a_relay_that_never_has_its_limits_is_not_run(
    grants: list[Reservation | Exception],
) -> None:
    grants[:] = [OWN_OF_P2PD] * MAX_STARTS
    with pytest.raises(DaemonFailed, match="limits of its own after 8 starts"):
        async with run_relay(CONFIG, LIMITS):
            pass
    assert grants == []


async def test_a_relay_that_this_machine_cannot_dial_runs_on(
    grants: list[Reservation | Exception],
) -> None:
    grants[:] = [PeerUnreachable(CONFIG.key.peer_id, "no route")]
    async with run_relay(CONFIG, LIMITS) as daemon:
        assert await daemon.fetch_addresses()


async def test_the_limits_are_those_that_a_real_p2pd_grants(
    grants: list[Reservation | Exception],
) -> None:
    async with run_relay(CONFIG, LIMITS) as daemon:
        assert await relay_start._has_limits(daemon, CONFIG, LIMITS)
        assert not await relay_start._has_limits(daemon, CONFIG, RelayLimits(max_time_s=301))


@pytest.mark.parametrize(
    ("listened", "expected"),
    [
        ("/ip4/0.0.0.0/tcp/31329", ["/ip4/127.0.0.1/tcp/31329"]),
        ("/ip6/::/udp/31329/quic-v1", ["/ip6/::1/udp/31329/quic-v1"]),
        ("/ip4/10.0.0.7/tcp/31329", ["/ip4/10.0.0.7/tcp/31329"]),
        ("/ip4/0.0.0.0/tcp/0", []),
        ("/ip4/0.0.0.0/udp/0/quic-v1", []),
    ],
)
def test_a_relay_is_dialled_where_it_listens(listened: str, expected: list[str]) -> None:
    assert list_own_addresses([listened]) == expected
