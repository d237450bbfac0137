"""The development chain as a process of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from subnet.localnet.devchain_process import run_devchain


async def test_the_chains_log_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        log = tmp_path / "devchain.log"
        async with run_devchain(
            block_seconds=1.0, epoch_length=20, finality_lag=2, log_path=log
        ) as url:
            assert url.startswith("ws://")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    finally:
        os.umask(before)
