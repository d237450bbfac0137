"""What an epoch's records cost a node in bytes, with real p2pds and DHT nodes, and the law beyond.

python -m benchmarks.bandwidth [--json] [--nodes 8 16 32] [--hosters 100] [--validators 10]

One network grows to each number of nodes and goes through one epoch of 20 blocks at each, as fast
as it can: every node hosts the whole model, publishes what it owes, and reads what it misses of all
others, in each phase once before half of it is there. The records are as large as at ``--hosters``
nodes, so bytes a node grow with nodes in a straight line; it is fitted and read off at
``--hosters``. Heartbeats and the upkeep of routing tables are part of it. As root with unshare(1)
it runs in a network namespace of its own and also counts the bytes on the wire: with TCP,
encryption and what libp2p says by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np

from keys.envelope import Envelope, compute_record_key, decode_envelope, seal
from keys.errors import KeysError
from keys.peer import PeerKey
from mesh.errors import RecordRefused
from mesh.model.config import LayerSpan
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import (
    HEARTBEAT_KIND,
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_policy,
)

NETWORK_ID = b"b" * 32
BLOCKS, BLOCK_S = 20, 6
GOAL_BYTES = 5_000_000
PATIENCE_S = 60.0
# So long that no request of a busy machine is given up, nor a node that starts.
WAITS_BLOCK_S, STARTUP_S = 120.0, 600.0
LAYERS, COORDINATES, BYTES_A_COORDINATE = 22, 256, 4
ROW, HASH, SALT, SCORE_ROW = 19, 32, 32, 28
HEARTBEAT_READS, HEARTBEATS, UPKEEPS = 12, 4, 8
CHALLENGE, COMMIT, REVEAL, SCORES, SIGHTING, AUDIT_COMMIT, AUDIT_REVEAL, NAMED_LIST = range(2, 10)
_IN_NAMESPACE = "MESH_BANDWIDTH_IN_NAMESPACE"


@dataclass(frozen=True)
class Sizes:
    """Bodies of one epoch's records in bytes, at ``hosters`` whole-model hosters."""

    hosters: int
    validators: int

    @property
    def by_kind(self) -> dict[int, int]:
        # The head is one vector more.
        reveal = SALT + (LAYERS + 1) * COORDINATES * BYTES_A_COORDINATE
        named = 4 * self.hosters + 3 * self.validators
        return {
            CHALLENGE: 40,
            COMMIT: 2 * HASH,
            REVEAL: reveal,
            SCORES: SALT + SCORE_ROW * self.hosters,
            SIGHTING: HASH + ROW * named + (self.hosters + 7) // 8,
            AUDIT_COMMIT: 2 * HASH,
            AUDIT_REVEAL: SALT + COORDINATES * BYTES_A_COORDINATE,
            NAMED_LIST: (2 + HASH) * ((2 * self.hosters + 2) // 3),
        }


@dataclass(frozen=True)
class Row:
    """One epoch: bytes a node. ``busiest`` sent most; ``wire`` is None outside a namespace."""

    nodes: int
    received: float
    sent: float
    busiest_sent: int
    wire_received: float | None
    missed: int
    seconds: float


class Policy:
    """Admits heartbeats, and envelopes of this network at their own expiry."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._heartbeat = make_heartbeat_policy(
            NETWORK_ID, is_member=lambda peer: True, clock=clock
        )

    def admit(self, value: bytes, expires_at: float) -> bytes:
        try:
            envelope = decode_envelope(value)
            if envelope.kind == HEARTBEAT_KIND:
                return self._heartbeat(value, expires_at)
            envelope.check_signature()
        except KeysError as error:
            raise RecordRefused("malformed", str(error)) from error
        if envelope.network_id != NETWORK_ID or envelope.expires_at != expires_at:
            raise RecordRefused("wrong-expiry")
        return envelope.key


class Node:
    """One host, its directory, and the records of the present epoch that it has."""

    def __init__(self, key: PeerKey, host: HivemindHost, clock: Callable[[], float]) -> None:
        self.key = key
        self.host = host
        self.had: set[bytes] = set()
        self.directory = Directory(host, network_id=NETWORK_ID, clock=clock)
        self.announcer = Announcer(
            host,
            self.directory,
            key=key,
            network_id=NETWORK_ID,
            node_id=1,
            describe=lambda: INFO,
            clock=clock,
        )

    async def publish(self, kind: int, epoch: int, *, size: int, expires_at: int) -> None:
        record: Envelope = seal(
            self.key,
            kind=kind,
            network_id=NETWORK_ID,
            epoch=epoch,
            expires_at=expires_at,
            node_id=1,
            body=os.urandom(size),
        )
        await self.host.records.publish(record.key, record.to_bytes(), expires_at)

    async def read(self, keys: Sequence[bytes]) -> None:
        missing = [key for key in keys if key not in self.had]
        self.had.update(await self.host.records.fetch(missing, timeout_s=PATIENCE_S))


INFO = ServerInfo(
    role=ServerRole.HOSTER,
    state=ServerState.ONLINE,
    span=LayerSpan(0, LAYERS),
    throughput=1000,
    free_cache_tokens=100_000,
    dtype="bfloat16",
    software="mesh 0.0.0",
    addresses=(f"/ip4/203.0.113.100/tcp/31330/p2p/{PeerKey(bytes(32)).peer_id}",),
)


class Network:
    """Nodes on loopback under one clock that moves with the blocks."""

    def __init__(self, stack: AsyncExitStack, sizes: Sizes) -> None:
        self._stack = stack
        self._sizes = sizes.by_kind
        self._num_validators = sizes.validators
        self._now_s = time.time()
        self._random = Random(1)
        self.nodes: list[Node] = []

    async def grow(self, number: int) -> None:
        while len(self.nodes) < number:
            added = 1 if not self.nodes else min(4, number - len(self.nodes))
            peers = await self._list_first_peers()
            opened = await asyncio.gather(*(self._open(peers) for _ in range(added)))
            self.nodes += opened
        # Later ones are known to earlier ones by now, and the other way round.
        await asyncio.gather(*(node.host._stay_in_touch() for node in self.nodes))

    async def run_epoch(self, epoch: int) -> Row:
        before = [(n.host.traffic.received, n.host.traffic.sent) for n in self.nodes]
        wire, started = _read_wire(), time.perf_counter()
        for node in self.nodes:
            node.had.clear()
        for block in range(BLOCKS):
            self._now_s += BLOCK_S
            await self._run_block(epoch, block)
        after = [(n.host.traffic.received, n.host.traffic.sent) for n in self.nodes]
        received = [late[0] - early[0] for late, early in zip(after, before, strict=True)]
        sent = [late[1] - early[1] for late, early in zip(after, before, strict=True)]
        number = len(self.nodes)
        expected = sum(len(keys) for _, _, keys in self._list_phases(epoch))
        return Row(
            nodes=number,
            received=sum(received) / number,
            sent=sum(sent) / number,
            busiest_sent=max(sent),
            wire_received=None if wire is None else ((_read_wire() or 0) - wire) / number,
            missed=sum(expected - len(node.had) for node in self.nodes),
            seconds=time.perf_counter() - started,
        )

    def _list_phases(self, epoch: int) -> list[tuple[int, list[tuple[Node, int]], list[bytes]]]:
        """Return for each phase its first block, who publishes what, and the records' keys."""
        everyone, elected = self.nodes, self.nodes[:1]
        validators = self.nodes[: self._num_validators]

        def phase(
            block: int, *owed: tuple[list[Node], int]
        ) -> tuple[int, list[tuple[Node, int]], list[bytes]]:
            pairs = [(node, kind) for nodes, kind in owed for node in nodes]
            keys = [
                compute_record_key(NETWORK_ID, kind, epoch, node.key.peer_id)
                for node, kind in pairs
            ]
            return block, pairs, keys

        return [
            phase(0, (elected, CHALLENGE), (elected, NAMED_LIST)),
            phase(3, (everyone, COMMIT)),
            phase(9, (validators, AUDIT_COMMIT)),
            phase(13, (everyone, REVEAL), (validators, AUDIT_REVEAL), (validators, SCORES)),
            phase(15, (everyone, SIGHTING)),
        ]

    async def _run_block(self, epoch: int, block: int) -> None:
        """Publish half of a phase's records, read all; publish the rest, read what is missing."""
        for first, owed, keys in self._list_phases(epoch):
            if block not in (first, first + 1):
                continue
            order = self._random if block < first else Random(epoch * BLOCKS + first)
            shuffled = order.sample(owed, len(owed))
            half = len(shuffled) // 2
            due = shuffled[:half] if block == first else shuffled[half:]
            expires_at = int(self._now_s) + 3 * BLOCKS * BLOCK_S
            await asyncio.gather(
                *(
                    node.publish(kind, epoch, size=self._sizes[kind], expires_at=expires_at)
                    for node, kind in due
                )
            )
            await asyncio.gather(*(node.read(keys) for node in self.nodes))
        await self._keep_up(block)

    async def _keep_up(self, block: int) -> None:
        """Do what nodes do all the time, as often in an epoch as they do."""

        def is_due(times: int) -> bool:
            return (block + 1) * times // BLOCKS > block * times // BLOCKS

        nodes = self.nodes
        if is_due(HEARTBEATS):
            await asyncio.gather(*(node.announcer.announce() for node in nodes))
        if is_due(HEARTBEAT_READS):
            peers = [node.key.peer_id for node in nodes]
            await asyncio.gather(*(node.directory.fetch_from_records(peers) for node in nodes))
        if is_due(UPKEEPS):
            await asyncio.gather(*(node.host._stay_in_touch() for node in nodes))

    async def _list_first_peers(self) -> tuple[str, ...]:
        if not self.nodes:
            return ()
        return tuple(await self.nodes[0].host.list_addresses())

    async def _open(self, peers: tuple[str, ...]) -> Node:
        key = PeerKey.generate()
        config = HostConfig(
            key=key,
            network_id=NETWORK_ID,
            record_policy=Policy(self._get_now),
            initial_peers=peers,
            block_time_s=WAITS_BLOCK_S,
            startup_timeout_s=STARTUP_S,
        )
        host = await self._stack.enter_async_context(HivemindHost.open(config))
        return Node(key, host, self._get_now)

    def _get_now(self) -> float:
        return self._now_s


def _read_wire() -> int | None:
    """Return the bytes that the loopback device has received, in a namespace of our own."""
    if _IN_NAMESPACE not in os.environ:
        return None
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == "lo":
            return int(fields.split()[0])
    return None


def _fit(rows: Sequence[Row], get: Callable[[Row], float]) -> tuple[float, float]:
    """Return slope and constant of the straight line through bytes over nodes."""
    slope, constant = np.polyfit([row.nodes for row in rows], [get(row) for row in rows], 1)
    return float(slope), float(constant)


async def measure(nodes: Sequence[int], sizes: Sizes) -> list[Row]:
    async with AsyncExitStack() as stack:
        network = Network(stack, sizes)
        rows = []
        for epoch, number in enumerate(sorted(nodes), start=1):
            await network.grow(number)
            rows.append(await network.run_epoch(epoch))
            print(f"{number} nodes: {rows[-1].seconds:.0f} s", file=sys.stderr)
        return rows


def summarise(rows: Sequence[Row], sizes: Sizes) -> dict[str, object]:
    laws = {}
    for name in ("received", "sent", "wire_received"):
        if any(getattr(row, name) is None for row in rows):
            continue
        slope, constant = _fit(rows, lambda row, name=name: getattr(row, name))
        at_goal = constant + slope * sizes.hosters
        laws[name] = {"each_node": slope, "constant": constant, "at_hosters": at_goal}
    judged = "wire_received" if "wire_received" in laws else "received"
    return {
        "hosters": sizes.hosters,
        "validators": sizes.validators,
        "record_bytes": sizes.by_kind,
        "rows": [asdict(row) for row in rows],
        "law": laws,
        "goal": GOAL_BYTES,
        "is_met": laws[judged]["at_hosters"] < GOAL_BYTES and not any(r.missed for r in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--hosters", type=int, default=100)
    parser.add_argument("--validators", type=int, default=10)
    arguments = parser.parse_args()
    if os.geteuid() == 0 and shutil.which("unshare") and _IN_NAMESPACE not in os.environ:
        _enter_namespace()
    sizes = Sizes(arguments.hosters, arguments.validators)
    result = summarise(asyncio.run(measure(arguments.nodes, sizes)), sizes)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{'nodes':>6} {'received':>10} {'sent':>10} {'busiest':>10} {'on the wire':>12}"
        "  bytes a node an epoch"
    )
    for row in result["rows"]:
        wire = row["wire_received"]
        print(
            f"{row['nodes']:>6} {row['received']:>10,.0f} {row['sent']:>10,.0f} "
            f"{row['busiest_sent']:>10,} {'-' if wire is None else f'{wire:,.0f}':>12}"
        )
    for name, law in result["law"].items():
        print(
            f"{name.replace('_', ' ')}: {law['constant']:,.0f} + {law['each_node']:,.0f} a node; "
            f"{law['at_hosters'] / 1e6:.2f} MB at {sizes.hosters} hosters"
        )
    print(
        f"goal: under {GOAL_BYTES / 1e6:g} MB, on the wire where that is counted: "
        f"{'met' if result['is_met'] else 'NOT met'}"
    )


def _enter_namespace() -> None:
    """Start anew where nothing else uses the loopback device, if this machine lets us."""
    os.environ[_IN_NAMESPACE] = "1"
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        os.execvp(
            command[0], [*command, sys.executable, "-m", "benchmarks.bandwidth", *sys.argv[1:]]
        )
    except OSError:
        del os.environ[_IN_NAMESPACE]


if __name__ == "__main__":
    main()
