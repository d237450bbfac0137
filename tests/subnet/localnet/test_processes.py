"""Children that cannot be lost: not by a cancelled start, not by a parent that died first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.commands import run_command

DIES = "import os\nfrom subnet.localnet.processes import die_with_parent\n"

CANCELLED_START = """
import asyncio, json, sys, time
from pathlib import Path
from subnet.localnet import processes

processes.PRELOAD = "json"


def sleep(config, send):
    send({"kind": "up"})
    time.sleep(600)


async def main():
    group = processes.ProcessGroup(Path(sys.argv[1]))
    first = await group.start("first", sleep, {})
    async for message in processes.read_messages(first):
        break
    starting = asyncio.ensure_future(group.start("second", sleep, {}))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await group.aclose()
    print(*[child.is_alive for child in group.children])
    try:
        await group.start("third", sleep, {})
    except RuntimeError as error:
        print(error)


if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    line = [sys.executable, "-c", f"{DIES}die_with_parent({gone.pid})\nos.read(0, 1)"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM


def test_a_child_of_a_living_parent_goes_on() -> None:
    line = [sys.executable, "-c", f"{DIES}die_with_parent({os.getpid()})"]
    assert subprocess.run(line, timeout=60, check=False).returncode == 0


def test_a_cancelled_start_leaves_no_child(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CANCELLED_START)
    with run_command([sys.executable, str(script), str(tmp_path / "logs")], tmp_path) as command:
        assert command.wait(timeout_s=60) == 0, command.stderr
        assert set(command.stdout.split("\n")[0].split()) == {"False"}
        assert "the group is closed" in command.stdout
        command.wait_until_gone()
    assert not psutil.pid_exists(command.process.pid)
