"""Child processes from one fork server that has imported torch and hivemind once.

Seven processes that each import them would cost two minutes and five gigabytes on
two cores; forked from one server they share both. A child leads its own session, so
that Ctrl-C reaches only the parent, which stops the children in order; and it dies
with the fork server, which dies with the parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = "subnet.localnet.preload"
STOP_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
MAX_MESSAGE_SIZE = 1 << 20
LOG_TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1
# Set in the fork server, so every child that it forks knows it.
_fork_server_pid: int | None = None

Message = dict[str, Any]
Send = Callable[[Message], None]
ChildMain = Callable[[Message, Send], None]


@dataclass(frozen=True, slots=True)
class Child:
    """One running child: its process, its log file and the pipe that it reports on."""

    name: str
    process: BaseProcess
    log_path: Path
    connection: Connection

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    async def describe_end(self) -> str:
        """Return how the process ended: its exit code or the signal that ended it."""
        # Its pipe closes a moment before the process is gone.
        await asyncio.to_thread(self.process.join, KILL_TIMEOUT_S)
        code = self.process.exitcode
        if code is None:
            return "closed its pipe and still runs"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def tail_log(self) -> str:
        """Return the last lines of the child's log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


class ProcessGroup:
    """Starts children and stops every one of them, whatever happens."""

    def __init__(self, log_directory: Path) -> None:
        self._log_directory = log_directory
        log_directory.mkdir(parents=True, exist_ok=True)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOAD])
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def warm_up(self) -> None:
        """Let the fork server start its imports now, while the caller does something else."""
        forkserver.ensure_running()

    @property
    def children(self) -> tuple[Child, ...]:
        return tuple(self._children)

    async def start(self, name: str, main: ChildMain, config: Message) -> Child:
        """Start ``main(config, send)`` in a child; the first start waits for the imports."""
        return await asyncio.to_thread(self._start, name, main, config)

    async def aclose(self) -> None:
        """Stop every child, and wait until it is gone."""
        await asyncio.shield(asyncio.to_thread(self._stop_all))

    def _start(self, name: str, main: ChildMain, config: Message) -> Child:
        # A start that is cancelled goes on in its thread, so the thread itself keeps the child
        # where _stop_all finds it.
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the group is closed")
            receiving, sending = self._context.Pipe(duplex=False)
            log_path = self._log_directory / f"{name}.log"
            process = self._context.Process(
                target=_run_child,
                name=name,
                args=(main, config, sending, str(log_path)),
                daemon=False,
            )
            process.start()
            sending.close()
            child = Child(name, process, log_path, receiving)
            self._children.append(child)
            return child

    def _stop_all(self) -> None:
        with self._lock:
            self._is_closed = True
        for child in reversed(self._children):
            if child.process.is_alive():
                child.process.terminate()
        for child in reversed(self._children):
            child.process.join(STOP_TIMEOUT_S)
            if child.process.is_alive():
                child.process.kill()
                child.process.join(KILL_TIMEOUT_S)
            child.connection.close()


async def read_messages(child: Child) -> AsyncIterator[Message]:
    """Yield what the child reports until its pipe closes."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    descriptor = child.connection.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            while child.connection.poll():
                try:
                    raw = child.connection.recv_bytes(MAX_MESSAGE_SIZE)
                except EOFError:
                    return
                yield json.loads(raw)
    finally:
        loop.remove_reader(descriptor)


def _run_child(main: ChildMain, config: Message, sending: Connection, log_path: str) -> None:
    os.setsid()
    die_with_parent(_fork_server_pid or os.getppid())
    _redirect_output(log_path)

    def send(message: Message) -> None:
        try:
            sending.send_bytes(json.dumps(message).encode())
        except BrokenPipeError:
            # The parent is gone; the death signal is on its way.
            sys.exit(1)

    main(config, send)


def become_fork_server() -> None:
    """Make this process, which is about to import for every child, end with its parent.

    While it imports it reads no pipe, so neither the end of its parent nor a Ctrl-C in its
    terminal would end it in good order.
    """
    global _fork_server_pid
    _fork_server_pid = os.getpid()
    die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to stop this process when the one that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        # It ended before the kernel was asked.
        os.kill(os.getpid(), signal.SIGTERM)


def _redirect_output(log_path: str) -> None:
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
