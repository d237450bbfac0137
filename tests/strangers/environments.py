"""One client's folder, environment and run.

``clients/NAME`` holds a suite in the client's own words: ``suite.py`` for pytest with
``requirements.in`` (what is named) and ``requirements.txt`` (all versions), or ``suite.mjs`` for
Node's test runner with ``package.json`` and a lock. ``outcomes.toml`` says which of its tests do
not pass, and why. Environments lie in ``.strangers/NAME``, or ``node_modules`` beside the suite,
and are made anew when their lock changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
ENVIRONMENTS = ROOT / ".strangers"
INSTALL_TIMEOUT_S = 900.0
PYTEST_OPTIONS = (
    "-q --tb=short --rootdir . --confcutdir . -p no:cacheprovider -p no:warnings "
    f"-c {os.devnull} -o junit_family=xunit1 -o asyncio_mode=auto "
    # Clients keep their connections from one test to the next, and with them the loop.
    "-o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session"
).split()
"""Nothing of this repository's own settings for pytest."""
TAIL = 6000
"""Characters of a failed command's output that an error repeats."""


class StrangerFailed(Exception):
    """An environment could not be made, or a suite ended without a report."""


@dataclass(frozen=True, slots=True)
class Client:
    """A folder of ``clients``."""

    name: str

    @property
    def folder(self) -> Path:
        return CLIENTS / self.name

    @property
    def is_node(self) -> bool:
        return (self.folder / "package.json").is_file()

    @property
    def lock(self) -> Path:
        return self.folder / ("package-lock.json" if self.is_node else "requirements.txt")

    def list_named(self) -> dict[str, str]:
        """Return the version of each package that the client names itself."""
        if self.is_node:
            said = json.loads((self.folder / "package.json").read_text(encoding="utf-8"))
            return dict(said["dependencies"])
        lines = (self.folder / "requirements.in").read_text(encoding="utf-8").split()
        return {re.sub(r"\[.*", "", line.split("==")[0]): line.split("==")[1] for line in lines}

    def install(self) -> None:
        """Make the environment, unless there is one of this lock. Raises StrangerFailed."""
        place = self.folder / "node_modules" if self.is_node else ENVIRONMENTS / self.name
        stamp = place / ".lock-sha256"
        wanted = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return
        if self.is_node:
            _run(["npm", "ci", "--no-audit", "--no-fund"], cwd=self.folder)
        else:
            shutil.rmtree(place, ignore_errors=True)
            _run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(place)])
            line = [find_uv_bin(), "pip", "sync", "--quiet", str(self.lock)]
            _run(line, environment={"VIRTUAL_ENV": str(place)})
        stamp.write_text(wanted, encoding="utf-8")

    def run(self, report: Path, environment: Mapping[str, str], *, timeout_s: float) -> None:
        """Run the suite, which writes a JUnit report. Raises StrangerFailed without one."""
        if self.is_node:
            line = [str(self.folder / "node_modules" / ".bin" / "node"), "--test"]
            line += ["--test-reporter=junit", f"--test-reporter-destination={report}", "suite.mjs"]
        else:
            python = ENVIRONMENTS / self.name / "bin" / "python"
            line = [str(python), "-m", "pytest", *PYTEST_OPTIONS]
            line += [f"--junitxml={report}", "suite.py"]
        said = _run(
            line, cwd=self.folder, environment=environment, timeout_s=timeout_s, check=False
        )
        if not report.is_file():
            raise StrangerFailed(f"{self.name}: the suite wrote no report\n{said[-TAIL:]}")


def list_clients() -> list[Client]:
    """Return every client, by name."""
    return [Client(lock.parent.name) for lock in sorted(CLIENTS.glob("*/suite.*"))]


def _run(
    line: list[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = INSTALL_TIMEOUT_S,
    check: bool = True,
) -> str:
    """Run a command; return what it said. Raises StrangerFailed, with ``check`` for exit codes."""
    # What the tests' own environment sets for Python is nothing for another one.
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            line,
            cwd=cwd,
            env={**inherited, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError as error:
        raise StrangerFailed(f"{line[0]} is not there. Fix: apt-get install npm") from error
    except subprocess.TimeoutExpired as error:
        raise StrangerFailed(f"{' '.join(line)}: no end within {timeout_s:.0f} s") from error
    if check and done.returncode:
        said = done.stdout[-TAIL:]
        raise StrangerFailed(f"{' '.join(line)} ended with {done.returncode}\n{said}")
    return done.stdout
