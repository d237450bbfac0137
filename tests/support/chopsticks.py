"""The real runtime on this machine: chopsticks, a fork from the chain's published genesis.

Neither the chain spec nor the Node.js package is in the repository: the spec's path
stands in HYPERTENSOR_CHAIN_SPEC, the package is installed by ``make install-js`` (or stands
in the directory that MESH_TEST_NODE_MODULES names).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SPEC_VARIABLE = "HYPERTENSOR_CHAIN_SPEC"
MODULES_VARIABLE = "MESH_TEST_NODE_MODULES"
DEFAULT_MODULES = Path(__file__).parent.parent / "js" / "node_modules"
PROGRAM = Path("@acala-network/chopsticks/chopsticks.cjs")

# Building a block takes the real runtime a second, and some on a busy machine, where the pure
# ledger takes none; the longest test needs 350 of them.
REAL_RUNTIME_MARKS = (pytest.mark.chain, pytest.mark.timeout(3600))

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1

# The port that was asked for may be taken; then chopsticks silently listens on the next one.
_LISTENING = re.compile(r"listening on .*ws://\[?[^\s]*?\]?:(\d+)")


def find_missing() -> str | None:
    """Return why the real runtime cannot be started here; None if it can."""
    spec = os.environ.get(SPEC_VARIABLE)
    if not spec:
        return f"{SPEC_VARIABLE} does not name the chain's published spec"
    if not Path(spec).is_file():
        return f"{SPEC_VARIABLE} names {spec}, which is not there"
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (get_modules() / PROGRAM).is_file():
        return "chopsticks is not installed: run `make install-js`"
    return None


def get_modules() -> Path:
    """Return the node_modules directory that is used."""
    return Path(os.environ.get(MODULES_VARIABLE) or DEFAULT_MODULES)


@contextmanager
def run_chopsticks(directory: Path) -> Iterator[str]:
    """Run the real runtime from genesis, a block for every extrinsic; yield its address."""
    config = directory / "chopsticks.yml"
    config.write_text(
        f"genesis: {os.environ[SPEC_VARIABLE]}\n"
        "mock-signature-host: false\n"
        "build-block-mode: Instant\n"
    )
    log = directory / "chopsticks.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["node", str(get_modules() / PROGRAM), "-c", str(config), "-p", "0"],
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield f"ws://127.0.0.1:{_wait_for_port(process, log)}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        found = _LISTENING.search(log.read_text(errors="replace"))
        if found:
            return int(found.group(1))
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    raise RuntimeError(f"chopsticks did not start: {log.read_text(errors='replace')[-2000:]}")
