"""Commands on a real pseudo-terminal, or in a pipe, and what they wrote to stderr."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH = 120
TIMEOUT_S = 120.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Said:
    """The end of a command: its exit code, its stdout, and all that it wrote to stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What stood on stderr, without colours; a bar that was drawn anew counts each time."""
        return [line for line in re.split(r"[\r\n]+", _ESCAPES.sub("", self.err)) if line.strip()]


def run_in_pipe(line: Sequence[str], environment: Mapping[str, str] | None = None) -> Said:
    """Run a command whose streams are pipes."""
    done = subprocess.run(
        list(line),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_extend(environment),
        timeout=TIMEOUT_S,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def run_on_terminal(line: Sequence[str], environment: Mapping[str, str] | None = None) -> Said:
    """Run a command whose stderr is a terminal of WIDTH columns; its stdout is a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    process = subprocess.Popen(
        list(line),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=_extend({"TERM": "xterm-256color", **(environment or {})}),
    )
    os.close(theirs)
    read = bytearray()
    try:
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:
                # Linux says so once the last writer has closed its end.
                break
            if not piece:
                break
            read += piece
        out, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return Said(process.returncode, out.decode(), read.decode("utf-8", "replace"))


def _extend(environment: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": str(WIDTH), **(environment or {})}
