"""How fast a hoster serves while strangers flood it, and whether epochs are lost.

    python -m benchmarks.flood [--json] [--rounds 3] [--seconds 10]
    python -m benchmarks.flood [--json] --epochs 2 [--block-seconds 1]

One hoster of a small model, one client that asks it without a pause, and strangers: peers with keys
outside any roster that send 1,000 invalid records a second, hold 200 bare connections and 200
half-open channels, announce oversized payloads and frames, ask and do not read, and send openings
with invalid signatures. The strangers run on the same machine, so part of what they take from the
client is only their own computing. The other measure is therefore the speed beside an unrelated
process that computes as much; both take turns. The goal is four fifths of it. On a machine that
others load too, waiting for a core hides everything: then look at the cores that the hoster and
its p2pd took, flooded and not, and at the CPU time that one thing that strangers did cost them.

With ``--epochs`` the strangers flood the bootnode, a hoster, of a local network instead. No epoch
may be lost, and each is attested by two thirds at least.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in the hoster.
wait_passively()

from benchmarks.serving import SMALL  # noqa: E402
from benchmarks.swarm import Swarm, ask, make_checkpoint, open_swarm  # noqa: E402

GOAL = 0.8
ATTESTATION_GOAL = 2 / 3
CORES = ("process", "daemons")
STRANGERS = 4
RECORDS_A_SECOND = 1_000
RECORDS_A_STORE = 10
SIGNATURES_A_SECOND = 200
OVERSIZED_A_SECOND = 40
UNREAD_A_SECOND = 40
BARE_CONNECTIONS = 200
HELD_CHANNELS = 200
SETTLE_S = 3.0
BURST_S = 0.02
NEW_TOKENS = 32


def run_strangers(addresses: list[str], server: str, pipe: Any) -> None:
    """A process of strangers: flood while the parent says so."""
    asyncio.run(_flood(addresses, server, pipe))


async def _flood(addresses: list[str], server: str, pipe: Any) -> None:
    from keys.peer import PeerId, PeerKey
    from mesh.p2p.config import HostConfig
    from mesh.p2p.hivemind_host import HivemindHost
    from mesh.routing.directory import fetch_info

    async with contextlib.AsyncExitStack() as stack:
        strangers, target = [], PeerId.from_base58(server)
        for _ in range(STRANGERS):
            key = PeerKey.generate()
            config = HostConfig(key=key, initial_peers=tuple(addresses), client_mode=True)
            host = await stack.enter_async_context(HivemindHost.open(config))
            # A peer tells every caller: clients need it.
            host.set_network_id((await fetch_info(host, target, timeout_s=60)).network_id)
            strangers.append(Stranger(host, key, target, addresses))
        pipe.send("ready")
        while await asyncio.to_thread(pipe.recv) == "flood":
            for stranger in strangers:
                stranger.done.clear()
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work) for stranger in strangers for work in stranger.attack()
                ]
                await asyncio.to_thread(pipe.recv)
                for task in running:
                    task.cancel()
            pipe.send(dict(sum((stranger.done for stranger in strangers), Counter())))


class Stranger:
    """One peer outside the roster and what it does to ``server``."""

    def __init__(self, host: Any, key: Any, server: Any, addresses: list[str]) -> None:
        self._host = host
        self._key = key
        self._server = server
        self._addresses = addresses
        self._random = Random(key.peer_id.public_key)
        self._held: list[Any] = []
        self.done: Counter[str] = Counter()

    def attack(self) -> list[Any]:
        """Return what runs at once."""
        stores = RECORDS_A_SECOND / RECORDS_A_STORE / STRANGERS
        return [
            self._repeat("stores", self._store, stores),
            self._repeat("signatures", self._send_bad_signature, SIGNATURES_A_SECOND / STRANGERS),
            self._repeat("oversized", self._announce_too_much, OVERSIZED_A_SECOND / STRANGERS),
            self._repeat("unread", self._ask_and_not_read, UNREAD_A_SECOND / STRANGERS),
            self._repeat("channels", self._hold_channel, HELD_CHANNELS / STRANGERS / 2),
            self._hold_connections(BARE_CONNECTIONS // STRANGERS),
        ]

    async def _repeat(self, name: str, act: Callable[[], Awaitable[None]], a_second: float) -> None:
        """Do it that often, in small bursts, whatever comes back."""
        async with asyncio.TaskGroup() as tasks:
            started, count = time.monotonic(), 0
            running: set[asyncio.Task[None]] = set()
            while True:
                due = int((time.monotonic() - started) * a_second)
                while count < due:
                    count += 1
                    if len(running) < 2 * a_second:
                        task = tasks.create_task(self._try(name, act))
                        running.add(task)
                        task.add_done_callback(running.discard)
                await asyncio.sleep(BURST_S)

    async def _try(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

        from mesh.errors import MeshError
        from mesh.p2p.channel import ChannelClosed

        self.done[name] += 1
        try:
            async with asyncio.timeout(5):
                await act()
        except (MeshError, P2PDaemonError, P2PHandlerError, ChannelClosed, OSError) as error:
            self.done[f"{name}: {type(error).__name__}"] += 1

    async def _store(self) -> None:
        from hivemind.p2p import PeerID
        from hivemind.proto import dht_pb2
        from hivemind.utils import MSGPackSerializer

        now = int(time.time())
        request = dht_pb2.StoreRequest(
            keys=[self._random.randbytes(20) for _ in range(RECORDS_A_STORE)],
            subkeys=[MSGPackSerializer.dumps(None)] * RECORDS_A_STORE,
            values=[MSGPackSerializer.dumps(bytes(1000))] * RECORDS_A_STORE,
            expiration_time=[now + 60.0] * RECORDS_A_STORE,
            in_cache=[False] * RECORDS_A_STORE,
        )
        self._host._p2p.namespace = self._host.network_id[:8].hex()
        await self._host._p2p.call_protobuf_handler(
            PeerID(self._server.to_bytes()), "DHTProtocol.rpc_store", request, dht_pb2.StoreResponse
        )

    def _make_opening(self, *, size: int = 0, is_valid: bool = True) -> bytes:
        from mesh.p2p.rpc_wire import Opening, OpeningKind, hash_payload, seal_opening
        from mesh.routing.directory import DIRECTORY_METHOD

        opening = Opening(
            kind=OpeningKind.UNARY,
            method=DIRECTORY_METHOD,
            network_id=self._host.network_id,
            client=self._key.peer_id,
            server=self._server,
            time_ms=int(time.time() * 1000),
            nonce=self._random.randbytes(16),
            binding=hash_payload(b""),
            payload_size=size,
        )
        raw: bytes = seal_opening(self._key, opening)
        return raw if is_valid else raw[:-64] + bytes(64)

    async def _send_bad_signature(self) -> None:
        channel = await self._host._dial(self._server)
        try:
            await channel.write(self._make_opening(is_valid=False))
            await channel.read_exactly(1)
        finally:
            channel.close()

    async def _announce_too_much(self) -> None:
        channel = await self._host._dial(self._server)
        try:
            await channel.write(self._make_opening(size=1 << 31) + bytes(65_536))
            await channel.read_exactly(1)
        finally:
            channel.close()

    async def _ask_and_not_read(self) -> None:
        channel = await self._host._dial(self._server)
        await channel.write(self._make_opening())
        self._hold(channel)

    async def _hold_channel(self) -> None:
        channel = await self._host._dial(self._server)
        await channel.write(self._make_opening()[:100])
        self._hold(channel)

    def _hold(self, channel: Any) -> None:
        self._held.append(channel)
        if len(self._held) > HELD_CHANNELS // STRANGERS:
            self._held.pop(0).abort()

    async def _hold_connections(self, number: int) -> None:
        """Open TCP connections that never say who they are; open what was closed again."""
        _, _, host, _, port, *_ = self._addresses[0].split("/")

        async def hold() -> None:
            while True:
                try:
                    reader, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    self.done["connections: refused"] += 1
                    await asyncio.sleep(1)
                    continue
                self.done["connections"] += 1
                with contextlib.suppress(OSError):
                    while await reader.read(4096):
                        continue
                writer.close()
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(hold())


def burn(share: float) -> None:
    """Compute for that share of the time, of one core, until killed."""
    while True:
        until = time.perf_counter() + 0.01 * share
        while time.perf_counter() < until:
            pass
        time.sleep(0.01 * (1 - share))


@contextlib.asynccontextmanager
async def run_burners(cores: float) -> AsyncIterator[None]:
    """Run unrelated processes that compute as much as ``cores`` cores do."""
    context = multiprocessing.get_context("spawn")
    number = max(1, int(-(-cores // 1)))
    burners = [context.Process(target=burn, args=(cores / number,)) for _ in range(number)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            await asyncio.to_thread(burner.join)


async def measure_speed(client: Any, seconds: float) -> float:
    """Return the tokens a second that the client gets, one question after the other."""
    await asyncio.sleep(SETTLE_S)
    started, tokens, shift = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds:
        shift += 1
        await ask(client, SMALL.make_prompt(16, shift=shift), NEW_TOKENS)
        tokens += NEW_TOKENS
    return tokens / (time.perf_counter() - started)


@dataclass(frozen=True)
class Cores:
    """How many cores a process and its children, which are p2pds, took."""

    process: float
    daemons: float

    @property
    def both(self) -> float:
        return self.process + self.daemons


def read_cpu_s(pid: int) -> tuple[float, float]:
    """Return the seconds that a process has computed, and those of its children."""
    import psutil

    process = psutil.Process(pid)
    own, *children = (p.cpu_times() for p in (process, *process.children(recursive=True)))
    return float(own.user + own.system), float(sum(c.user + c.system for c in children))


@contextlib.contextmanager
def measure_cores(pid: int, cores: list[Cores]) -> Iterator[None]:
    """Append how many cores a process and its children took in the block."""
    before, started = read_cpu_s(pid), time.perf_counter()
    yield
    after, seconds = read_cpu_s(pid), time.perf_counter() - started
    own, children = (a - b for a, b in zip(after, before, strict=True))
    cores.append(Cores(own / seconds, children / seconds))


async def measure(swarm: Swarm, addresses: list[str], *, rounds: int, seconds: float) -> Any:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    strangers = context.Process(target=run_strangers, args=(addresses, swarm.peers[0], theirs))
    strangers.start()
    try:
        await asyncio.to_thread(ours.recv)
        await ask(swarm.client, SMALL.make_prompt(16), NEW_TOKENS)
        alone = await measure_speed(swarm.client, seconds)
        flooded, loaded, done = [], [], Counter[str]()
        cores: list[Cores] = []
        hoster_cores: dict[str, list[Cores]] = {"flooded": [], "loaded": []}
        for number in range(rounds):
            ours.send("flood")
            with measure_cores(strangers.pid, cores):
                with measure_cores(swarm.pids[0], hoster_cores["flooded"]):
                    flooded.append(await measure_speed(swarm.client, seconds))
            ours.send("stop")
            done.update(await asyncio.to_thread(ours.recv))
            async with run_burners(cores[-1].both):
                with measure_cores(swarm.pids[0], hoster_cores["loaded"]):
                    loaded.append(await measure_speed(swarm.client, seconds))
            print(
                f"round {number + 1}: {flooded[-1]:.1f} tokens/s flooded, {loaded[-1]:.1f} beside "
                f"{cores[-1].both:.2f} cores of unrelated load",
                file=sys.stderr,
            )
        ours.send("end")
    finally:
        strangers.join(10)
        strangers.kill()
    ratio = statistics.median(f / b for f, b in zip(flooded, loaded, strict=True))
    return {
        "alone_tokens_per_second": alone,
        "flooded_tokens_per_second": flooded,
        "loaded_tokens_per_second": loaded,
        "strangers_cores": [taken.both for taken in cores],
        "hoster_cores": {
            name: [asdict(taken) for taken in rounds] for name, rounds in hoster_cores.items()
        },
        "strangers_did": dict(sorted(done.items())),
        "ratio": ratio,
        "goal": GOAL,
        "is_met": ratio >= GOAL,
    }


async def run(*, rounds: int, seconds: float) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(SMALL, Path(folder))
        async with open_swarm(SMALL, Path(folder), 1, 1, is_alone=True) as swarm:
            return await measure(swarm, swarm.addresses, rounds=rounds, seconds=seconds)


async def flood_localnet(epochs: int, block_seconds: float) -> dict[str, Any]:
    """Flood the bootnode of a local network; return its epochs and what strangers did."""
    line = [sys.executable, "-m", "subnet.cli.mesh", "localnet", "--json"]
    line += ["--epochs", str(epochs), "--block-seconds", str(block_seconds)]
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*line, **pipes)
    assert process.stdout is not None and process.stderr is not None
    try:
        address = await _read_bootnode(process.stderr)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        server = address.rpartition("/")[2]
        strangers = context.Process(target=run_strangers, args=([address], server, theirs))
        strangers.start()
        try:
            await asyncio.to_thread(ours.recv)
            ours.send("flood")
            # Both pipes are read at once: neither may fill up.
            results, talk = await asyncio.gather(process.stdout.read(), process.stderr.read())
            ours.send("stop")
            done = await asyncio.to_thread(ours.recv)
            ours.send("end")
        finally:
            strangers.join(10)
            strangers.kill()
        print(talk.decode(errors="replace"), file=sys.stderr)
        rows = [json.loads(row) for row in results.splitlines()]
        return {"epochs": rows, "exit_code": await process.wait(), "strangers_did": done}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _read_bootnode(talk: asyncio.StreamReader) -> str:
    """Return the address that a local network says it can be dialled at."""
    async for line in talk:
        text = line.decode(errors="replace").strip()
        print(text, file=sys.stderr)
        if " dial " in text:
            return text.rpartition(" ")[2]
    raise RuntimeError("the local network ended before its nodes were up")


def show_epochs(result: dict[str, Any], expected: int, *, as_json: bool) -> None:
    """Print what became of the epochs; exit with 1 if one was lost."""
    ratios = [row.get("attestation_ratio", 0.0) for row in result["epochs"]]
    is_met = len(ratios) == expected and min(ratios) >= ATTESTATION_GOAL
    if as_json:
        print(json.dumps({**result, "is_met": is_met}, indent=2))
    else:
        for row, ratio in zip(result["epochs"], ratios, strict=True):
            print(f"epoch {row['epoch']}: {row.get('lost') or f'attested by {ratio:.2f}'}")
        for name, count in sorted(result["strangers_did"].items()):
            print(f"{count:>8}  {name}")
        print(f"no epoch lost: {'met' if is_met else 'NOT met'}")
    sys.exit(0 if is_met else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, help="flood a local network for so many epochs")
    parser.add_argument("--block-seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.epochs:
        rows = asyncio.run(flood_localnet(arguments.epochs, arguments.block_seconds))
        show_epochs(rows, arguments.epochs, as_json=arguments.json)
        return
    result = asyncio.run(run(rounds=arguments.rounds, seconds=arguments.seconds))
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, count in result["strangers_did"].items():
        print(f"{count:>8}  {name}")
    for name, taken in result["hoster_cores"].items():
        own, daemons = (statistics.median(t[part] for t in taken) for part in CORES)
        print(f"{name}: the hoster took {own:.2f} cores, its p2pd {daemons:.2f}")
    print(f"alone {result['alone_tokens_per_second']:.1f} tokens/s")
    print(
        f"flooded {statistics.median(result['flooded_tokens_per_second']):.1f} tokens/s, "
        f"{result['ratio']:.2f} of the speed beside an equal unrelated load; "
        f"goal {GOAL}: {'met' if result['is_met'] else 'NOT met'}"
    )


if __name__ == "__main__":
    main()
