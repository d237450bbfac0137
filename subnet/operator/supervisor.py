"""Tells systemd, or another supervisor, how this process is: sd_notify(3), without its library.

The protocol is one datagram of ``NAME=value`` lines to the socket that NOTIFY_SOCKET names. The
packages for it are unmaintained (sdnotify) or need libsystemd's headers (systemd-python), and all
of it that a process needs is below.

- ``READY=1``: once, when the process does what it was started for. A unit of ``Type=notify`` is
  "activating" until then; every beat asks for more time, so a long start is no failure and a start
  that hangs is one.
- ``WATCHDOG=1``: at every beat while the event loop runs and ``find_fault`` finds nothing. The beat
  is a task of the event loop, so a loop that hangs beats no more.
- ``STATUS=``: one line for ``systemctl status``; ``STOPPING=1`` when the process drains.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Self

import structlog

from subnet.chain.endpoints import Endpoints

BEAT_S = 10.0
"""Between beats; half of the watchdog's time if that is shorter."""
MIN_BEAT_S = 0.05
START_EXTENSION_S = 120.0
"""What each beat asks for while the process is not ready."""
MAX_STATUS_TEXT = 300
MAX_SOCKET_PATH = 107
MAX_WATCHDOG_USEC = 24 * 3600 * 10**6

logger = structlog.get_logger(__name__)

FindFault = Callable[[], str | None]
"""Says what does not live any more, in words; None if all does."""


MAX_CHAIN_SILENCE_S = 120.0
"""Far more than a reader that lives leaves between two calls, answered or failed."""


def find_chain_fault(endpoints: Endpoints) -> str | None:
    """Return that the chain's readers hang, if they do; a chain that is away is no fault."""
    silence_s = endpoints.get_silence_s()
    if silence_s <= MAX_CHAIN_SILENCE_S:
        return None
    return f"no call to the chain has ended for {silence_s:.0f} s"


class Supervisor:
    """The other end of the notify socket. Without one, nothing is sent."""

    def __init__(self, address: str | None = None, *, watchdog_s: float | None = None) -> None:
        self._address = address
        self._beat_s = BEAT_S
        if watchdog_s is not None:
            self._beat_s = max(MIN_BEAT_S, min(BEAT_S, watchdog_s / 2))
        self._has_watchdog = watchdog_s is not None
        self._is_ready = False
        self._is_failing = False
        self._text: str | None = None
        self._find_fault: FindFault = lambda: None
        self._fault: str | None = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Return what the supervisor asks for; takes its variables away from child processes.

        A value that makes no sense counts as none.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_usable = address[:1] in ("/", "@") and 1 < len(address.encode()) <= MAX_SOCKET_PATH
        is_for_us = pid in ("", str(os.getpid()))
        is_time = usec.isdecimal() and len(usec) <= 12 and 0 < int(usec) <= MAX_WATCHDOG_USEC
        return cls(
            address if is_usable else None,
            watchdog_s=int(usec) / 10**6 if is_usable and is_for_us and is_time else None,
        )

    def watch(self, find_fault: FindFault) -> None:
        """Ask ``find_fault`` at every beat from now on."""
        self._find_fault = find_fault

    def note_ready(self) -> None:
        """Say once that the process does what it was started for."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")

    def note_status(self, text: str) -> None:
        """Say one line for people, if it is another one than before."""
        if text != self._text:
            self._text = text
            self._send(f"STATUS={' '.join(text.split())[:MAX_STATUS_TEXT]}")

    def note_stopping(self) -> None:
        """Say that the process drains."""
        self._send("STOPPING=1")

    async def beat(self) -> None:
        """Beat until cancelled."""
        while self._address is not None:
            self._beat_once()
            await asyncio.sleep(self._beat_s)

    def _beat_once(self) -> None:
        fault = self._find_fault()
        if fault is not None:
            if fault != self._fault:
                logger.error("the watchdog is told nothing", reason=fault)
            self._fault = fault
            return
        self._fault = None
        states = ["WATCHDOG=1"] if self._has_watchdog else []
        if not self._is_ready:
            states.append(f"EXTEND_TIMEOUT_USEC={int(START_EXTENSION_S * 10**6)}")
        if states:
            self._send("\n".join(states))

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract name.
        address = b"\0" + self._address[1:].encode() if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.setblocking(False)
                end.sendto(text.encode(), address)
        except OSError as error:
            if not self._is_failing:
                logger.warning("the supervisor cannot be told", reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False


@asynccontextmanager
async def beating(supervisor: Supervisor) -> AsyncIterator[None]:
    """Beat while the block runs. The block's own error comes out as it was."""
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(supervisor.beat())
            try:
                yield
            finally:
                task.cancel()
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
