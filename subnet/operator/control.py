"""A local socket of the running node, over which the owner's commands ask for what only it can do.

Theory of operation
-------------------

Where. ``control.sock`` in the node's data folder, a unix socket of mode 0600 in a folder of mode
0700. Where the kernel tells the user of the other end (Linux), one that is neither this process's
user nor root is turned away. A socket that a killed node left behind refuses connections; the next
node takes its place, which the locks of the folder and the identity make safe.

What travels. One request and one answer a connection, each a length of four bytes (big-endian) and
so many bytes of JSON, an object. A request names a ``method``; the other fields are its arguments.
An answer has ``result``, an object, or ``refusal``, a sentence.

What it cannot do. No method signs, spends or publishes anything that a caller chooses.

Limits. MAX_CLIENTS connections at once, others are closed at once; MAX_REQUEST_SIZE and
MAX_ANSWER_SIZE bytes; REQUEST_TIMEOUT_S for the request and ANSWER_TIMEOUT_S for the answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from subnet.errors import ConfigError

CONTROL_SOCKET = "control.sock"
MAX_CLIENTS = 4
MAX_REQUEST_SIZE = 4096
MAX_ANSWER_SIZE = 256 * 1024
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 180.0
ACCEPT_PAUSE_S = 1.0
MAX_SOCKET_PATH = 100
"""A unix socket's path has at most 107 bytes on Linux and 103 elsewhere."""
_LENGTH = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")
_CONNECTION_LOST = (OSError, asyncio.IncompleteReadError, TimeoutError)

Method = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Called with a request's fields; returns the result's. Raises ControlRefused."""

logger = logging.getLogger(__name__)


class ControlRefused(ConfigError):
    """The node does not answer this request, or nothing that was understood came back."""


class NodeNotRunning(ConfigError):
    """No process listens on the folder's socket."""


class MalformedControlMessage(Exception):
    """The bytes are not a message of this socket."""


class ControlServer:
    """Answers on the socket of one data folder. ``run`` belongs in the node's task group."""

    def __init__(self, directory: Path, methods: Mapping[str, Method]) -> None:
        self._directory = directory
        self._methods = methods
        self._clients = 0

    async def run(self) -> None:
        """Answer until cancelled. A socket that cannot be made costs the commands, not the node."""
        try:
            with _listen(self._directory) as listener:
                await self._accept(listener)
        except OSError as error:
            logger.warning("commands cannot ask this node: %s", error)

    async def _accept(self, listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                # Not loop.sock_accept: cancelled at the wrong moment, it leaves a socket open.
                await _wait_until_readable(listener)
                try:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                except BlockingIOError:
                    continue  # The client has gone again.
                except OSError as error:
                    # No descriptor is free, say: the next client may have more luck.
                    logger.warning("a command cannot ask this node: %s", error)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                if self._clients >= MAX_CLIENTS or not _is_owner(connection):
                    connection.close()
                    continue
                self._clients += 1
                task = tasks.create_task(self._serve(connection))
                # One that is cancelled before it begins closes nothing itself.
                task.add_done_callback(partial(_close_if_cancelled, connection))

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    request = await _receive(reader, max_size=MAX_REQUEST_SIZE)
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    writer.write(_encode(await self._answer(request), max_size=MAX_ANSWER_SIZE))
                    await writer.drain()
            finally:
                writer.close()
        except (*_CONNECTION_LOST, MalformedControlMessage) as error:
            logger.debug("a command was not answered: %r", error)
        finally:
            self._clients -= 1

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        method = self._methods.get(str(request.get("method")))
        if method is None:
            return {"refusal": "this node knows no such request: it is of another version"}
        try:
            return {"result": await method(request)}
        except ControlRefused as refused:
            return {"refusal": str(refused)}
        except _CONNECTION_LOST:
            raise
        except Exception:
            # A question must not end the node that is asked.
            logger.exception("a command's request failed: %s", request.get("method"))
            return {"refusal": "the request failed in the node, whose log says how"}


async def _wait_until_readable(listener: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)


def _close_if_cancelled(connection: socket.socket, task: asyncio.Task[None]) -> None:
    if task.cancelled():
        connection.close()


async def ask_node(
    directory: Path, method: str, *, timeout_s: float, **arguments: Any
) -> Mapping[str, Any]:
    """Return what the node that runs in ``directory`` answers.

    Raises NodeNotRunning, ControlRefused, or TimeoutError after ``timeout_s``.
    """
    async with asyncio.timeout(timeout_s):
        try:
            reader, writer = await asyncio.open_unix_connection(sock=_connect(directory))
        except OSError as error:
            raise NodeNotRunning(
                f"no node runs in {directory}", "start it with mesh-test"
            ) from error
        try:
            writer.write(_encode({"method": method, **arguments}, max_size=MAX_REQUEST_SIZE))
            await writer.drain()
            answer = await _receive(reader, max_size=MAX_ANSWER_SIZE)
        except (OSError, asyncio.IncompleteReadError, MalformedControlMessage) as error:
            raise ControlRefused(
                f"the node in {directory} closed its socket without an answer",
                "run the command again, as the user that runs the node",
            ) from error
        finally:
            writer.close()
    result = answer.get("result")
    if not isinstance(result, dict):
        raise ControlRefused(
            f"the node in {directory} refuses: {str(answer.get('refusal'))[:500]}",
            "restart the node with the version of this command",
        )
    return result


def find_running(data_dir: Path) -> tuple[Path, ...]:
    """Return the folders below ``data_dir`` in which a node listens, sorted."""
    found = []
    for path in sorted(data_dir.glob(f"*/{CONTROL_SOCKET}")):
        try:
            _connect(path.parent).close()
        except OSError:
            continue
        found.append(path.parent)
    return tuple(found)


@contextmanager
def _listen(directory: Path) -> Iterator[socket.socket]:
    """Listen for the owner alone, for the length of the block. Raises OSError."""
    path = directory / CONTROL_SOCKET
    path.unlink(missing_ok=True)
    with _open_socket() as listener:
        with _short_name(directory) as name:
            listener.bind(name)
        # Until it listens, no client can connect: the mode is right before the first client.
        os.chmod(path, 0o600)
        listener.listen(MAX_CLIENTS)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _connect(directory: Path) -> socket.socket:
    """Return a socket that is connected to the node in ``directory``. Raises OSError."""
    connection = _open_socket()
    try:
        with _short_name(directory) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def _open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.setblocking(False)
    return opened


@contextmanager
def _short_name(directory: Path) -> Iterator[str]:
    """Yield a name of the socket that fits: a long folder is named by a descriptor of it."""
    path = str(directory / CONTROL_SOCKET)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield path
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{CONTROL_SOCKET}"
    finally:
        os.close(descriptor)


def _is_owner(connection: socket.socket) -> bool:
    """Whether the other end is of this process's user, or root, as far as the kernel tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    raw = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return user in (0, os.geteuid())


def _encode(message: Mapping[str, Any], *, max_size: int) -> bytes:
    """Return a message as it travels. Raises MalformedControlMessage for one that is too large."""
    body = json.dumps(message).encode()
    if len(body) > max_size:
        raise MalformedControlMessage(f"a message of {len(body)} bytes is too large")
    return _LENGTH.pack(len(body)) + body


async def _receive(reader: asyncio.StreamReader, *, max_size: int) -> Mapping[str, Any]:
    """Return the next message.

    Raises MalformedControlMessage, or what a broken connection raises.
    """
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if size > max_size:
        raise MalformedControlMessage(f"a message of {size} bytes is too large")
    try:
        message = json.loads(await reader.readexactly(size))
    except (ValueError, RecursionError) as error:
        raise MalformedControlMessage("a message is not JSON") from error
    if not isinstance(message, dict):
        raise MalformedControlMessage("a message is not an object")
    return message
