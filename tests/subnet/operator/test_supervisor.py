"""What systemd is told over a real datagram socket: ready once, and a beat only while all lives."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from consensus.view import EpochStatus
from mesh.routing.heartbeat import ServerState
from subnet.chain.endpoints import Endpoints
from subnet.errors import ChainUnavailable
from subnet.node.self_description import is_taking_part
from subnet.operator.supervisor import (
    MAX_CHAIN_SILENCE_S,
    Supervisor,
    beating,
    find_chain_fault,
)

WATCHDOG_S = 0.2


class Listener:
    """The socket that systemd would listen at."""

    def __init__(self, address: str | bytes) -> None:
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.end.bind(address)
        self.end.setblocking(False)

    def take(self) -> list[str]:
        """Return every line that came since the last call."""
        lines: list[str] = []
        while True:
            try:
                lines += self.end.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture(params=["path", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Listener]]:
    """A notify socket under its name in NOTIFY_SOCKET."""
    if request.param == "path":
        name, address = str(tmp_path / "notify"), str(tmp_path / "notify").encode()
    else:
        name = f"@mesh-test-{os.getpid()}-{time.monotonic_ns()}"
        address = b"\0" + name[1:].encode()
    listener = Listener(address)
    yield name, listener
    listener.end.close()


def make(name: str, **changes: str) -> tuple[Supervisor, dict[str, str]]:
    environment = {
        "NOTIFY_SOCKET": name,
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 10**6)),
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    } | changes
    return Supervisor.from_environment(environment), environment


async def test_ready_is_said_once_and_no_child_inherits_the_socket(place: Any) -> None:
    name, listener = place
    supervisor, environment = make(name)
    assert environment == {"PATH": "/bin"}
    assert listener.take() == []
    supervisor.note_ready()
    supervisor.note_ready()
    supervisor.note_status("online;\nactive")
    supervisor.note_status("online;\nactive")
    supervisor.note_stopping()
    assert listener.take() == ["READY=1", "STATUS=online; active", "STOPPING=1"]


async def test_it_beats_at_least_twice_in_the_watchdogs_time(place: Any) -> None:
    name, listener = place
    supervisor, _ = make(name)
    supervisor.note_ready()
    async with beating(supervisor):
        await asyncio.sleep(3 * WATCHDOG_S)
    lines = listener.take()
    assert lines[0] == "READY=1" and set(lines[1:]) == {"WATCHDOG=1"}
    assert len(lines) >= 5


async def test_a_start_asks_for_more_time_until_the_process_is_ready(place: Any) -> None:
    name, listener = place
    supervisor, _ = make(name)
    async with beating(supervisor):
        await asyncio.sleep(WATCHDOG_S)
        assert "EXTEND_TIMEOUT_USEC=120000000" in listener.take()
        supervisor.note_ready()
        listener.take()
        await asyncio.sleep(WATCHDOG_S)
    assert set(listener.take()) == {"WATCHDOG=1"}


async def test_nothing_is_told_while_the_chains_readers_hang_and_it_is_once_they_live(
    place: Any,
) -> None:
    name, listener = place
    supervisor, _ = make(name)
    now = [0.0]
    endpoints = Endpoints(["ws://127.0.0.1:1"], clock=lambda: now[0])
    supervisor.watch(lambda: find_chain_fault(endpoints))
    with capture_logs() as logs:
        async with beating(supervisor):
            await asyncio.sleep(WATCHDOG_S / 4)
            assert "WATCHDOG=1" in listener.take()
            now[0] = MAX_CHAIN_SILENCE_S + 1
            await asyncio.sleep(WATCHDOG_S)
            listener.take()
            await asyncio.sleep(2 * WATCHDOG_S)
            assert listener.take() == []
            endpoints.leave("ws://127.0.0.1:1", ChainUnavailable("away"))
            await asyncio.sleep(WATCHDOG_S)
            assert "WATCHDOG=1" in listener.take()
    told = [entry["reason"] for entry in logs if entry["event"] == "the watchdog is told nothing"]
    assert told == ["no call to the chain has ended for 121 s"]


def test_a_chain_that_is_away_or_stands_still_is_no_hanging_reader() -> None:
    now = [0.0]
    endpoints = Endpoints(["ws://127.0.0.1:1"], clock=lambda: now[0])
    for answer in (True, False):
        now[0] += MAX_CHAIN_SILENCE_S + 1
        assert find_chain_fault(endpoints) is not None
        if answer:
            endpoints.note_answer("ws://127.0.0.1:1")
        else:
            endpoints.leave("ws://127.0.0.1:1", ChainUnavailable("away"))
        assert find_chain_fault(endpoints) is None


async def test_an_event_loop_that_hangs_beats_no_more(place: Any) -> None:
    name, listener = place
    supervisor, _ = make(name)
    async with beating(supervisor):
        await asyncio.sleep(WATCHDOG_S / 4)
        listener.take()
        time.sleep(3 * WATCHDOG_S)  # noqa: ASYNC251 - what hangs is the point
        assert listener.take() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative/path"},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"NOTIFY_SOCKET": "vsock:2:1"},
    ],
)
async def test_an_address_that_is_none_is_told_nothing(changes: dict[str, str]) -> None:
    supervisor, environment = make("/ignored", **changes)
    supervisor.note_ready()
    await asyncio.wait_for(supervisor.beat(), 5)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "changes",
    [
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "9" * 30},
        {"WATCHDOG_PID": "1"},
        {"WATCHDOG_PID": "x"},
    ],
)
async def test_a_watchdog_that_is_not_ours_is_not_fed(place: Any, changes: dict[str, str]) -> None:
    name, listener = place
    supervisor, _ = make(name, **changes)
    async with beating(supervisor):
        await asyncio.sleep(0.05)
    assert "WATCHDOG=1" not in listener.take()


async def test_a_supervisor_that_is_gone_ends_nothing_and_is_logged_once(tmp_path: Path) -> None:
    supervisor, _ = make(str(tmp_path / "nothing"))
    with capture_logs() as logs:
        async with beating(supervisor):
            await asyncio.sleep(2 * WATCHDOG_S)
    assert [entry["event"] for entry in logs] == ["the supervisor cannot be told"]


async def test_the_error_of_the_block_comes_out_as_it_was(place: Any) -> None:
    supervisor, _ = make(place[0])
    with pytest.raises(ZeroDivisionError):
        async with beating(supervisor):
            raise ZeroDivisionError


def test_a_node_is_ready_only_while_it_serves_and_takes_part_in_the_epoch() -> None:
    ready = {
        (state, status, is_unpaid)
        for state in ServerState
        for status in EpochStatus
        for is_unpaid in (False, True)
        if is_taking_part(state, status, is_unpaid=is_unpaid)
    }
    online = ServerState.ONLINE
    assert ready == {(online, EpochStatus.ACTIVE, False)} | {
        (online, status, True) for status in EpochStatus
    }
