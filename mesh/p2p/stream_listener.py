"""Where p2pd hands over the streams of other peers: who may not speak is turned away first.

p2pd connects to a unix socket of ours for every stream that a peer opens, and says in its first
message which peer that is. hivemind's listener makes a transport, two stream objects and a task
before it looks; a peer that floods pays nothing for that, and the node takes the time from its
clients. Here a stream costs one accept and one read until its peer is known and may stay. And once
a stream was turned away, those that follow wait a moment and are taken together: every wake-up of
the event loop interrupts the thread that computes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.p2p.delimited import read_fields, read_number

BACKLOG = 128
MAX_ACCEPTED = 32
"""Streams that are taken in one turn of the event loop, so that a flood cannot hold it."""
MAX_INTRODUCTION = 1024
"""Bytes of p2pd's message about a stream: a peer id, an address and a protocol."""
MAX_WAITING = 256
"""Streams whose first message has not come yet. p2pd sends it at once."""
PAUSE_S = 0.01
"""How long nothing is taken after a stream was turned away and no other waited."""
RETRY_S = 1.0
"""How long nothing is taken when this process has no file descriptor left."""
_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MAX_PREFIX = 2
_PEER_FIELD = 1

OnStream = Callable[[PeerId, socket.socket, bytes], None]
"""Takes a stream over, with what has been read of it already."""

logger = logging.getLogger(__name__)


class StreamListener:
    """Listens at a unix socket. ``turn_away`` says which peers' streams are closed unread."""

    def __init__(
        self, listening: socket.socket, *, turn_away: Callable[[PeerId], bool], on_stream: OnStream
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._turn_away = turn_away
        self._on_stream = on_stream
        # The oldest first.
        self._waiting: dict[socket.socket, bytes] = {}
        self._has_turned_away = False
        # Set while nothing is taken.
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept)

    @classmethod
    def open(cls, path: Path, *, turn_away: Callable[[PeerId], bool], on_stream: OnStream) -> Self:
        """Listen at ``path`` until ``close``. Raises OSError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
        return cls(listening, turn_away=turn_away, on_stream=on_stream)

    def close(self) -> None:
        """Stop listening; what waits is dropped. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        while self._waiting:
            self._forget(next(iter(self._waiting))).close()

    def _accept(self) -> None:
        pause_s = 0.0
        for _ in range(MAX_ACCEPTED):
            try:
                stream, _address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                pause_s = PAUSE_S if self._has_turned_away else 0.0
                self._has_turned_away = False
                break
            except OSError as error:
                if error.errno not in _NO_RESOURCES:
                    raise
                # The listening socket stays readable, so the loop would spin.
                logger.error("no stream can be taken: %s", error)
                pause_s = RETRY_S
                break
            stream.setblocking(False)
            self._read(stream, b"")
        self._rest(pause_s)

    def _rest(self, seconds: float) -> None:
        """Take nothing for so long."""
        is_resting = self._pause is not None
        self._pause = self._loop.call_later(seconds, self._accept) if seconds else None
        if bool(seconds) is is_resting:
            return
        if seconds:
            self._loop.remove_reader(self._listening)
        else:
            self._loop.add_reader(self._listening, self._accept)

    def _go_on(self, stream: socket.socket) -> None:
        self._read(stream, self._waiting[stream])

    def _read(self, stream: socket.socket, before: bytes) -> None:
        try:
            arrived = stream.recv(MAX_INTRODUCTION)
        except BlockingIOError:
            self._wait(stream, before)
            return
        except OSError:
            arrived = b""
        raw = before + arrived
        try:
            introduced: tuple[PeerId | None, bytes] | None = (None, b"")
            if arrived:
                introduced = _split(raw)
        except ValueError as error:
            logger.debug("a stream without a sender: %s", error)
            introduced = (None, b"")
        if introduced is None:
            self._wait(stream, raw)
            return
        self._forget(stream)
        peer, rest = introduced
        if peer is None or self._turn_away(peer):
            # Bytes that wait unread make this a reset.
            stream.close()
            self._has_turned_away = True
            return
        self._on_stream(peer, stream, rest)

    def _wait(self, stream: socket.socket, arrived: bytes) -> None:
        if stream not in self._waiting:
            self._loop.add_reader(stream, self._go_on, stream)
        self._waiting[stream] = arrived
        if len(self._waiting) > MAX_WAITING:
            self._forget(next(iter(self._waiting))).close()

    def _forget(self, stream: socket.socket) -> socket.socket:
        if self._waiting.pop(stream, None) is not None:
            self._loop.remove_reader(stream)
        return stream


def _split(raw: bytes) -> tuple[PeerId, bytes] | None:
    """Return a stream's peer and what follows p2pd's message; None while it is not complete.

    Raises ValueError for what p2pd does not send, and for peers whose keys are not Ed25519.
    """
    if len(raw) < _MAX_PREFIX and raw[-1] > 0x7F:
        return None
    size, start = read_number(raw[:_MAX_PREFIX], 0)
    if size > MAX_INTRODUCTION:
        raise ValueError(f"a message of {size} bytes about a stream")
    if len(raw) < start + size:
        return None
    end = start + size
    for number, value in read_fields(raw[start:end]):
        if number == _PEER_FIELD and isinstance(value, bytes):
            try:
                return PeerId.from_bytes(value), raw[end:]
            except BadPeerId as error:
                raise ValueError(str(error)) from error
    raise ValueError("a message about a stream names no peer")
