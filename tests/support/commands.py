"""Commands as real processes, and every process that they start in turn."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

MESH = (sys.executable, "-m", "subnet.cli.mesh")
MESH_TEST = (sys.executable, "-m", "subnet.cli.mesh_test")
MARK = "MESH_TEST_FAMILY"
START_S = 120.0
STOP_S = 30.0
POLL_S = 0.05


class Command:
    """One running command. Its output goes to files, its temporary files to a folder of its own.

    Whatever it starts inherits a mark in its environment, so that nothing escapes notice,
    whoever its parent is by then.
    """

    def __init__(
        self, line: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.mark = secrets.token_hex(8)
        # Short, since unix sockets live below it.
        self.temporary = Path(tempfile.mkdtemp(prefix="mesh-e2e-", dir="/tmp"))
        self._out = directory / f"{self.mark}.out"
        self._err = directory / f"{self.mark}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                list(line),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "TMPDIR": str(self.temporary),
                    **(environment or {}),
                    MARK: self.mark,
                },
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait_for(self, text: str, *, timeout_s: float = START_S) -> None:
        """Wait until ``text`` stands in what the command said, on either stream."""

        def is_said() -> bool:
            if text in self.stdout + self.stderr:
                return True
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.stderr[-4000:]}"
            return False

        wait_until(is_said, f"{text!r} from {self.process.args!r}", timeout_s=timeout_s)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """Interrupt the whole foreground group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, *, timeout_s: float = STOP_S) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.stderr[-4000:]}") from None

    def list_family(self) -> list[psutil.Process]:
        """Return every live process that this command started, itself included."""
        return [process for process in psutil.process_iter() if self._is_marked(process)]

    def wait_until_gone(self, *, timeout_s: float = STOP_S) -> None:
        """Wait until nothing of the family is left."""
        try:
            wait_until(lambda: not self.list_family(), "end", timeout_s=timeout_s)
        except AssertionError:
            left = [(one.pid, one.ppid(), one.cmdline()[:4]) for one in self.list_family()]
            raise AssertionError(f"still running after {timeout_s:.0f} s: {left}") from None

    def close(self) -> None:
        """Kill whatever is left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in self.list_family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False


@contextmanager
def run_command(
    line: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Command]:
    """Start a command; whatever it left running is killed on leaving."""
    command = Command(line, directory, environment)
    try:
        yield command
    finally:
        command.close()


def find_free_port() -> int:
    """Return a port that is free for TCP and UDP on every address."""
    for _ in range(100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind(("0.0.0.0", 0))
            port = int(stream.getsockname()[1])
            with contextlib.suppress(OSError):
                datagram.bind(("0.0.0.0", port))
                return port
    raise AssertionError("no free port")


def wait_until(
    is_done: Callable[[], bool], what: str, *, timeout_s: float = START_S, poll_s: float = POLL_S
) -> None:
    """Poll until ``is_done``, or fail by the name of what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not is_done():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s:.0f} s"
        time.sleep(poll_s)
