"""What a network stands on: loopback, slow and lossy proxies, or a namespace for each node."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.slow_links import CHUNK, Link, LinkProxy
from subnet.localnet.environment import find_free_port
from subnet.localnet.processes import die_with_parent

SWARM_PORT = 31330
MAIN, ISLAND = "main", "island"
ANCHOR_TIMEOUT_S = 10.0
POLL_S = 0.01
SMALL_DISK_SIZE = 32 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node runs: what it listens on, what others dial, its chain and its namespace.

    ``address`` has no peer id. ``namespace`` is a file of /proc; None is that of this process.
    """

    host_maddrs: tuple[str, ...]
    address: str
    chain_url: str
    announce_maddrs: tuple[str, ...] = ()
    namespace: str | None = None


class Ground:
    """Every node on a port of its own of this machine's loopback.

    With ``has_small_disk`` the last node's data are on a small disk.
    """

    chain_host = "127.0.0.1"

    def __init__(self, *, has_small_disk: bool = False) -> None:
        self._has_small_disk = has_small_disk
        self.small_disk: SmallDisk | None = None

    @asynccontextmanager
    async def open(
        self, data_dirs: Sequence[Path], chain_port: int
    ) -> AsyncIterator[Sequence[Place]]:
        """Yield a place for each node, by its data directory."""
        with ExitStack() as stack:
            if self._has_small_disk:
                self.small_disk = SmallDisk(data_dirs[-1])
                stack.enter_context(self.small_disk.mount())
            places = []
            for _ in data_dirs:
                address = f"/ip4/127.0.0.1/tcp/{find_free_port()}"
                places.append(Place((address,), address, f"ws://127.0.0.1:{chain_port}"))
            yield places


class SlowGround(Ground):
    """Loopback with a proxy before each node's p2pd and before its chain.

    ``link`` holds for each direction of all of them.
    """

    def __init__(self, draw: Random) -> None:
        super().__init__()
        self.link = Link(draw=draw)
        self._proxy = LinkProxy(self.link)

    @asynccontextmanager
    async def open(
        self, data_dirs: Sequence[Path], chain_port: int
    ) -> AsyncIterator[Sequence[Place]]:
        async with AsyncExitStack() as stack:
            places = []
            for _ in data_dirs:
                own = find_free_port()
                outside = await stack.enter_async_context(self._proxy.serve(own))
                chain = await stack.enter_async_context(self._proxy.serve(chain_port))
                address = f"/ip4/127.0.0.1/tcp/{outside}"
                places.append(
                    Place(
                        (f"/ip4/127.0.0.1/tcp/{own}",),
                        address,
                        f"ws://127.0.0.1:{chain}",
                        announce_maddrs=(address,),
                    )
                )
            yield places

    def cut_all(self) -> None:
        """Break every connection without a word."""
        self._proxy.cut_all()


class NamespaceGround(Ground):
    """A network namespace for each node: one link to the swarm, another to the chain.

    The links of the swarm meet in a bridge; a second bridge makes a partition. All of it is inside
    the namespace of this process and ends with it.
    """

    chain_host = "0.0.0.0"

    def __init__(self) -> None:
        super().__init__()
        self._anchors: list[subprocess.Popen[bytes]] = []
        self._chain_port = 0

    @asynccontextmanager
    async def open(
        self, data_dirs: Sequence[Path], chain_port: int
    ) -> AsyncIterator[Sequence[Place]]:
        self._chain_port = chain_port
        try:
            for bridge in (MAIN, ISLAND):
                run_ip("link", "add", "name", bridge, "type", "bridge")
                run_ip("link", "set", "dev", bridge, "up")
            yield [self.add_place() for _ in data_dirs]
        finally:
            for anchor in self._anchors:
                anchor.kill()
                anchor.wait()
            for bridge in (MAIN, ISLAND):
                run_ip("link", "delete", "dev", bridge)

    def add_place(self) -> Place:
        """Make one more namespace on the main bridge."""
        index = len(self._anchors)
        anchor = self._start_anchor()
        namespace = f"/proc/{anchor.pid}/ns/net"
        inside = ("nsenter", f"--net={namespace}", "ip")
        for near, far in ((f"swarm{index}", "swarm"), (f"chain{index}", "chain")):
            run_ip("link", "add", "name", near, "type", "veth", "peer", "name", far)
            run_ip("link", "set", "dev", far, "netns", str(anchor.pid))
            run_ip("link", "set", "dev", near, "up")
        run_ip("link", "set", "dev", f"swarm{index}", "master", MAIN)
        run_ip("address", "add", f"10.78.{index}.1/24", "dev", f"chain{index}")
        own, near_chain = f"10.77.0.{index + 1}", f"10.78.{index}.2"
        run((*inside, "address", "add", f"{own}/24", "dev", "swarm"))
        run((*inside, "address", "add", f"{near_chain}/24", "dev", "chain"))
        for device in ("lo", "swarm", "chain"):
            run((*inside, "link", "set", "dev", device, "up"))
        address = f"/ip4/{own}/tcp/{SWARM_PORT}"
        url = f"ws://10.78.{index}.1:{self._chain_port}"
        return Place((address,), address, url, namespace=namespace)

    def _start_anchor(self) -> subprocess.Popen[bytes]:
        """Start the process that keeps a namespace, and return once it is in it."""
        anchor = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        self._anchors.append(anchor)
        deadline = time.monotonic() + ANCHOR_TIMEOUT_S
        while os.readlink(f"/proc/{anchor.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            if time.monotonic() > deadline:
                raise RuntimeError("no network namespace was made")
            time.sleep(POLL_S)
        return anchor

    def cut_off(self, indices: Iterable[int]) -> None:
        """Part these nodes from the others; they keep each other and the chain."""
        for index in indices:
            run_ip("link", "set", "dev", f"swarm{index}", "master", ISLAND)

    def heal(self, indices: Iterable[int]) -> None:
        for index in indices:
            run_ip("link", "set", "dev", f"swarm{index}", "master", MAIN)


def run(line: Sequence[str]) -> None:
    """Run a command. Raises RuntimeError with what it said."""
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr.strip()}")


def run_ip(*arguments: str) -> None:
    run(("ip", *arguments))


class SmallDisk:
    """A tmpfs in place of a node's data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"

    @contextmanager
    def mount(self) -> Iterator[None]:
        """Have it for the length of the block, in which the node runs."""
        self._directory.mkdir(parents=True, mode=0o700)
        options = f"size={SMALL_DISK_SIZE},mode=0700"
        run(("mount", "-t", "tmpfs", "-o", options, "chaos", str(self._directory)))
        try:
            yield
        finally:
            run(("umount", str(self._directory)))

    def fill(self) -> None:
        """Take all the space that is left."""
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (CHUNK, 1):
                with suppress(OSError):
                    while ballast.write(bytes(size)):
                        continue

    def free(self) -> None:
        self._ballast.unlink()
