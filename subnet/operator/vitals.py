"""What a process measures about its machine and its money: peers, disk, balance, stake.

The values are read from outside and None until they are known. Reading them costs p2pd one answer
in PERIOD_S and the chain two requests an epoch.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from mesh.errors import DaemonFailed
from mesh.p2p.interface import PeerCounts

PERIOD_S = 15.0
PEERS_TIMEOUT_S = 5.0
LOW_DISK_BYTES = 1 << 30
"""Below it doctor, /readyz, alerts and the Prometheus rule warn: a journal grows by megabytes an
epoch, and a full disk ends the node."""


class Vitals:
    """The last measured values. ``directory`` is the data folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.peers: PeerCounts | None = None
        self.disk_free: int | None = None
        self.balance: int | None = None
        """Units of 10^-18 TENSOR of the hotkey; None without one."""
        self.stake: int | None = None
        """Units of 10^-18 TENSOR."""

    @property
    def is_disk_low(self) -> bool:
        """Whether the disk is nearly full."""
        return self.disk_free is not None and self.disk_free < LOW_DISK_BYTES

    async def keep_fresh(
        self,
        count_peers: Callable[[], Awaitable[PeerCounts]],
        *,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure every PERIOD_S until cancelled; ``on_news`` is called after each time."""
        while True:
            await self.measure(count_peers)
            on_news()
            await asyncio.sleep(PERIOD_S)

    async def measure(self, count_peers: Callable[[], Awaitable[PeerCounts]]) -> None:
        """Measure peers and disk once. What cannot be measured is not known."""
        try:
            async with asyncio.timeout(PEERS_TIMEOUT_S):
                self.peers = await count_peers()
        except (DaemonFailed, TimeoutError):
            # The host's own watch finds out whether p2pd is dead, and ends the process.
            self.peers = None
        try:
            self.disk_free = shutil.disk_usage(self._directory).free
        except OSError:
            self.disk_free = None


def describe_disk(free: int | None) -> str:
    """Return how much space is left, in words."""
    return "not measured yet" if free is None else f"{free / 2**30:.1f} GiB free"
