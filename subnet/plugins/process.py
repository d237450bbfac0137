"""Calls a plug-in in its own process, with a limit of time and size on every answer.

A process is the one thing that ends a loop without end. It is started at the first call and kept;
after a call that fails by time or size it is killed, and the next call starts another.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mesh.errors import PluginFailed
from mesh.plugins import Plugin

START_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 2.0
MAX_REPLY = 1 << 20
_WORKER = "subnet.plugins.worker"

Clock = Callable[[], float]


@dataclass
class PluginProcess:
    """One plug-in's process. Calls come from one thread at a time; ``close`` from any."""

    plugin: Plugin
    timeout_s: float = CALL_TIMEOUT_S
    start_timeout_s: float = START_TIMEOUT_S
    clock: Clock = time.monotonic
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Import the plug-in now. Raises PluginFailed."""
        with self._lock:
            self._ensure_started()

    def call(self, name: str, *arguments: Any) -> list[int]:
        """Return what the plug-in answers. Raises PluginFailed with the reason."""
        with self._lock:
            self._ensure_started()
            request = json.dumps({"call": name, "arguments": arguments}).encode() + b"\n"
            return self._exchange(request, self.timeout_s)

    def close(self) -> None:
        """Kill the process if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _ensure_started(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        stamp = self.plugin.stamp
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, self.plugin.kind, stamp.name, self.plugin.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # What this process can import, the plug-in can.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._exchange(b"", self.start_timeout_s)

    def _exchange(self, request: bytes, timeout_s: float) -> list[int]:
        try:
            line = self._read_reply(request, self.clock() + timeout_s)
        except TimeoutError:
            self._give_up(f"it took longer than {timeout_s:g} s")
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self._give_up("its process ended without an answer")
        try:
            reply = json.loads(line, parse_float=_refuse, parse_constant=_refuse)
            if "error" in reply:
                raise self._failed(str(reply["error"]))
            return [int(value) for value in reply["ok"]]
        except (ValueError, KeyError, TypeError) as error:
            self._give_up(f"its process gave no answer that can be read: {error}"[:200])

    def _read_reply(self, request: bytes, deadline: float) -> bytes:
        """Write the request and read one line. Raises TimeoutError or OSError."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        source, sink = process.stdout.fileno(), process.stdin.fileno()
        os.set_blocking(sink, False)
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            if request:
                selector.register(sink, selectors.EVENT_WRITE)
            while not line.endswith(b"\n"):
                left = deadline - self.clock()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fd == sink:
                        request = request[os.write(sink, request) :]
                        if not request:
                            selector.unregister(sink)
                        continue
                    piece = os.read(source, MAX_REPLY)
                    line += piece
                    if not piece or len(line) > MAX_REPLY:
                        return line[:0]
        return line

    def _give_up(self, reason: str) -> NoReturn:
        self.close()
        raise self._failed(reason)

    def _failed(self, reason: str) -> PluginFailed:
        return PluginFailed(self.plugin.kind, self.plugin.stamp.name, reason)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")
