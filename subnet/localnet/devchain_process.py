"""The development chain of a local network, as a process of its own.

It starts beside the fork server instead of from it: the subnet is registered while
the fork server still imports torch.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from subnet.errors import ChainUnavailable
from subnet.localnet.processes import die_with_parent

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


@asynccontextmanager
async def run_devchain(
    *, block_seconds: float, epoch_length: int, finality_lag: int, log_path: Path
) -> AsyncIterator[str]:
    """Start ``mesh devchain`` in instant mode and yield its URL; stop it on leaving.

    Raises ChainUnavailable when it does not start.
    """
    with _open_private(log_path) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "subnet.cli.mesh",
            "devchain",
            "--port=0",
            f"--block-seconds={block_seconds}",
            f"--epoch-length={epoch_length}",
            f"--finality-lag={finality_lag}",
            "--block-mode=instant",
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    try:
        yield await _read_url(process, log_path)
    finally:
        await asyncio.shield(_stop(process))


def _open_private(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab")


async def _read_url(process: asyncio.subprocess.Process, log_path: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    url = line.decode().strip()
    if not url.startswith("ws://"):
        raise ChainUnavailable(f"the development chain did not start; its log is {log_path}")
    return url


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
