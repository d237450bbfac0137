"""The node's control socket: private to its owner, bounded, and unmoved by what strangers send."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from subnet.operator import control
from subnet.operator.control import (
    CONTROL_SOCKET,
    MAX_ANSWER_SIZE,
    MAX_CLIENTS,
    MAX_REQUEST_SIZE,
    ControlRefused,
    ControlServer,
    NodeNotRunning,
    ask_node,
    find_running,
)

WAIT_S = 30.0


async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"heard": request["text"]}


async def refuse(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ControlRefused("not now", "later")


async def boast(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": "x" * MAX_ANSWER_SIZE}


async def stumble(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise KeyError("a defect of the method")


METHODS = {"echo": echo, "refuse": refuse, "boast": boast, "stumble": stumble}


@asynccontextmanager
async def serving(directory: Path, **methods: control.Method) -> AsyncIterator[ControlServer]:
    server = ControlServer(directory, {**METHODS, **methods})
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run())
        await listening(directory)
        yield server
        running.cancel()


async def listening(directory: Path) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await ask(directory, "echo", text="")
            except NodeNotRunning:
                await asyncio.sleep(0)
            else:
                return


async def send_raw(directory: Path, raw: bytes) -> bytes:
    """Send bytes as they are; return what comes back before the socket is closed."""
    reader, writer = await asyncio.open_unix_connection(str(directory / CONTROL_SOCKET))
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(WAIT_S):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "7-1"
    place.mkdir()
    return place


async def ask(folder: Path, method: str, **arguments: Any) -> Mapping[str, Any]:
    return await ask_node(folder, method, timeout_s=WAIT_S, **arguments)


async def test_a_request_is_answered_and_several_follow(folder: Path) -> None:
    async with serving(folder):
        for text in ("first", "second"):
            assert await ask(folder, "echo", text=text) == {"heard": text}


async def test_only_the_owner_may_open_the_socket(folder: Path) -> None:
    async with serving(folder):
        mode = (folder / CONTROL_SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


async def test_another_user_is_turned_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(folder):
        with monkeypatch.context() as patch:
            # The kernel says who is at the other end: neither root nor the user of this process.
            other = struct.Struct("3i")
            patch.setattr(control, "_CREDENTIALS", _Credentials(other, user=os.geteuid() + 1))
            with pytest.raises(ControlRefused):
                await ask(folder, "echo", text="hello")
        assert await ask(folder, "echo", text="hello") == {"heard": "hello"}


class _Credentials:
    """What the kernel would say about a client of another user."""

    def __init__(self, layout: struct.Struct, *, user: int) -> None:
        self._user = user
        self.size = layout.size

    def unpack(self, raw: bytes) -> tuple[int, int, int]:
        return 1, self._user, self._user


@pytest.mark.parametrize(
    "raw",
    (
        b"",
        b"\0\0",
        struct.pack(">I", MAX_REQUEST_SIZE + 1),
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 4) + b"nope",
        struct.pack(">I", 1000) + b"[" * 1000,
    ),
)
async def test_bytes_that_are_no_request_get_no_answer_and_cost_nothing(
    folder: Path, raw: bytes
) -> None:
    async with serving(folder):
        assert await send_raw(folder, raw) == b""
        assert await ask(folder, "echo", text="still here") == {"heard": "still here"}


async def test_an_unknown_method_is_refused_in_words(folder: Path) -> None:
    async with serving(folder):
        with pytest.raises(ControlRefused, match="knows no such request"):
            await ask(folder, "sign", message="anything")
        body = json.dumps({"no": "method"}).encode()
        assert b"refusal" in await send_raw(folder, struct.pack(">I", len(body)) + body)


async def test_a_method_s_refusal_reaches_the_caller(folder: Path) -> None:
    async with serving(folder):
        with pytest.raises(ControlRefused, match="not now"):
            await ask(folder, "refuse")


async def test_a_method_with_a_defect_is_refused_and_does_not_end_the_node(folder: Path) -> None:
    async with serving(folder):
        with pytest.raises(ControlRefused, match="failed in the node"):
            await ask(folder, "stumble")
        assert await ask(folder, "echo", text="hello") == {"heard": "hello"}


async def test_an_answer_that_is_too_large_is_not_sent(folder: Path) -> None:
    async with serving(folder):
        with pytest.raises(ControlRefused, match="without an answer"):
            await ask(folder, "boast")


async def test_more_clients_than_the_limit_are_closed_at_once(folder: Path) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    count = 0

    async def hold(request: Mapping[str, Any]) -> Mapping[str, Any]:
        nonlocal count
        count += 1
        if count == MAX_CLIENTS:
            begun.set()
        await may_end.wait()
        return {}

    async with serving(folder, hold=hold), asyncio.TaskGroup() as tasks:
        for _ in range(MAX_CLIENTS):
            tasks.create_task(ask(folder, "hold"))
        await begun.wait()
        with pytest.raises(ControlRefused):
            await ask(folder, "echo", text="one too many")
        may_end.set()


async def test_a_folder_with_a_long_name_has_a_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120) / "7-1"
    folder.mkdir(parents=True)
    async with serving(folder):
        assert await ask(folder, "echo", text="far") == {"heard": "far"}


async def test_a_socket_that_a_killed_node_left_is_no_running_node(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / CONTROL_SOCKET))
    assert find_running(folder.parent) == ()
    with pytest.raises(NodeNotRunning):
        await ask(folder, "echo", text="hello")
    async with serving(folder):
        assert find_running(folder.parent) == (folder,)


async def test_the_socket_goes_with_the_node(folder: Path) -> None:
    async with serving(folder):
        pass
    assert not (folder / CONTROL_SOCKET).exists()


async def test_a_client_that_is_accepted_while_the_node_stops_is_hung_up_on(folder: Path) -> None:
    """Else its socket stays open until it is collected."""
    server = ControlServer(folder, {})
    with socket.socket(socket.AF_UNIX) as client:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            while not (folder / CONTROL_SOCKET).exists():  # noqa: ASYNC110
                await asyncio.sleep(0)
            client.connect(str(folder / CONTROL_SOCKET))
            while not server._clients:  # noqa: ASYNC110
                await asyncio.sleep(0)
            running.cancel()
        client.settimeout(WAIT_S)
        assert client.recv(1) == b""
