"""What an answer loses when its hosters are killed or frozen: nothing, and how long it pauses.

    python benchmarks/recovery.py                     20 failures, as a table
    python benchmarks/recovery.py --kills 200 --json  200 failures, one JSON object
    python benchmarks/recovery.py --faults frozen     only frozen processes
    python benchmarks/recovery.py --ranges 3 --delay-ms 25   over links of 25 ms one way
    python benchmarks/recovery.py --replay            every hop of a new route computes the text

Every hoster is a process of its own with a real p2pd; two serve each range of the shipped model. In
the middle of each answer one hoster of its route is killed or frozen, by turns the node, its p2pd
or both. The answers are seeded draws at temperature 1.6, and are compared token by token with the
same answers of the undisturbed swarm. The pause is the longest wait for a token. After each failure
another answer is asked for, whose pause is counted apart; then the lost hoster is brought back.
Exits with 1 if a token was wrong, lost or repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in every hoster.
wait_passively()

from benchmarks.slow_links import Link, LinkProxy  # noqa: E402
from benchmarks.swarm import NETWORK_ID, run_hoster  # noqa: E402
from subnet.localnet.environment import find_free_port  # noqa: E402

RANGES = 2
HOSTERS_OF_EACH = 2
READY_S = 120.0
BACK_S = 60.0
NEW_TOKENS = 48
PROMPTS = 4
FAULTS = ("node killed", "p2pd killed", "node frozen", "p2pd frozen", "both frozen")


@dataclass
class Process:
    """One hoster: its process, its p2pd, its address, and which range it serves."""

    part: int
    process: Any
    pipe: Any
    address: str
    daemon_pid: int

    @property
    def peer(self) -> str:
        return self.address.rpartition("/p2p/")[2]


@dataclass
class Result:
    """Counts over all answers, and pauses in seconds by fault."""

    kills: int = 0
    reroutes: int = 0
    refills: int = 0
    wrong: int = 0
    lost: int = 0
    repeated: int = 0
    pauses_s: dict[str, list[float]] = field(default_factory=dict)
    next_pauses_s: list[float] = field(default_factory=list)

    def compare(self, tokens: list[Any], expected: list[int]) -> None:
        """Count what is wrong with an answer."""
        indices = [token.index for token in tokens]
        self.repeated += len(indices) - len(set(indices))
        self.lost += len(set(range(len(expected))) - set(indices))
        self.wrong += sum(
            token.index >= len(expected) or token.token_id != expected[token.index]
            for token in tokens
        )

    @property
    def is_clean(self) -> bool:
        return not (self.wrong or self.lost or self.repeated)

    def render(self) -> dict[str, Any]:
        """Return the figures as they are printed."""
        pauses = list(itertools.chain(*self.pauses_s.values()))
        return {
            "kills": self.kills,
            "reroutes": self.reroutes,
            "refills": self.refills,
            "wrong": self.wrong,
            "lost": self.lost,
            "repeated": self.repeated,
            "pause_s": _summarise(pauses),
            "next_answer_pause_s": _summarise(self.next_pauses_s),
            "by_fault": {fault: _summarise(found) for fault, found in self.pauses_s.items()},
        }


def _summarise(seconds: list[float]) -> dict[str, float | int]:
    if not seconds:
        return {"count": 0}
    return {
        "count": len(seconds),
        "median": round(statistics.median(seconds), 3),
        "max": round(max(seconds), 3),
    }


class Hosters:
    """The hoster processes: started, broken and brought back.

    They are reached over a link of ``delay_s`` one way; 0: at their own ports.
    """

    def __init__(
        self,
        folder: Path,
        num_layers: int,
        stack: contextlib.AsyncExitStack,
        *,
        ranges: int,
        delay_s: float,
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._bounds = [num_layers * i // ranges for i in range(ranges + 1)]
        self._proxy = LinkProxy(Link(delay_s)) if delay_s else None
        # Forked from a process that has torch already: one hoster more costs a second.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.swarm", "mesh.inference.session_server"])
        self.running: list[Process] = []

    @property
    def addresses(self) -> list[str]:
        return [hoster.address for hoster in self.running]

    async def start(self, part: int) -> Process:
        ours, theirs = self._context.Pipe()
        span = (self._bounds[part], self._bounds[part + 1])
        place = None
        if self._proxy is not None:
            own = find_free_port()
            outside = await self._stack.enter_async_context(self._proxy.serve(own))
            place = (f"/ip4/127.0.0.1/tcp/{own}", f"/ip4/127.0.0.1/tcp/{outside}")
        process = self._context.Process(
            target=run_hoster,
            args=(str(self._folder), span, "float32", "cpu", 1, theirs),
            kwargs={"deterministic": True, "place": place},
            daemon=True,
        )
        process.start()
        ours.send(self.addresses)
        async with asyncio.timeout(READY_S):
            address = (await asyncio.to_thread(ours.recv))[0]
        hoster = Process(part, process, ours, address, _find_daemon(process.pid or 0))
        self.running.append(hoster)
        return hoster

    def find(self, peer: str) -> Process:
        return next(hoster for hoster in self.running if hoster.peer == peer)

    def break_one(self, hoster: Process, fault: str) -> None:
        number = signal.SIGKILL if fault.endswith("killed") else signal.SIGSTOP
        if fault.startswith(("node", "both")):
            os.kill(hoster.process.pid, number)
        if fault.startswith(("p2pd", "both")):
            os.kill(hoster.daemon_pid, number)

    async def bring_back(self, hoster: Process, fault: str) -> None:
        """Let a frozen hoster go on; start another in place of a killed one."""
        if fault.endswith("frozen"):
            for pid in (hoster.daemon_pid, hoster.process.pid):
                os.kill(pid, signal.SIGCONT)
            return
        await self.end(hoster)
        await self.start(hoster.part)

    async def end(self, hoster: Process) -> None:
        self.running.remove(hoster)
        with contextlib.suppress(OSError):
            hoster.pipe.close()
        for pid in (hoster.process.pid, hoster.daemon_pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(hoster.process.join, 10)


def _find_daemon(pid: int) -> int:
    import psutil

    children = psutil.Process(pid).children(recursive=True)
    return next(child.pid for child in children if child.name() == "p2pd")


@contextlib.asynccontextmanager
async def open_hosters(
    *, ranges: int = RANGES, delay_s: float = 0.0
) -> AsyncIterator[tuple[Hosters, Any]]:
    """Start all hosters; yield them and a client."""
    from keys.peer import PeerKey
    from mesh.assets import SHIPPED_MODEL_NAME
    from mesh.client.client import MeshClient
    from mesh.client.tokenizer import ChatTokenizer
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.p2p.config import HostConfig
    from mesh.p2p.hivemind_host import HivemindHost
    from mesh.routing.directory import Directory

    folder = resolve_known_model(SHIPPED_MODEL_NAME).source
    config = load_config(folder)
    stack = contextlib.AsyncExitStack()
    hosters = Hosters(folder, config.num_layers, stack, ranges=ranges, delay_s=delay_s)
    try:
        for part in range(ranges):
            for _ in range(HOSTERS_OF_EACH):
                await hosters.start(part)
        host_config = HostConfig(
            key=PeerKey.generate(), initial_peers=tuple(hosters.addresses), client_mode=True
        )
        async with HivemindHost.open(host_config) as host:
            host.set_network_id(NETWORK_ID)
            client = MeshClient(
                host,
                Directory(host, network_id=NETWORK_ID),
                config=config,
                tokenizer=ChatTokenizer.load(folder),
            )
            yield hosters, client
            await client.watch.close()
    finally:
        for hoster in list(hosters.running):
            await hosters.end(hoster)
        await stack.aclose()


async def wait_for_all(hosters: Hosters, client: Any) -> None:
    """Wait until the client knows every running hoster and all of them answer."""
    from keys.peer import PeerId

    wanted = {PeerId.from_base58(hoster.peer) for hoster in hosters.running}
    peers = [address.rpartition("/p2p/")[2] for address in hosters.addresses]
    async with asyncio.timeout(BACK_S):
        while True:
            for address, peer in zip(hosters.addresses, peers, strict=True):
                with contextlib.suppress(Exception):
                    await client.host.connect([address])
                    await client.directory.fetch_from_peer(PeerId.from_base58(peer))
            await client.watch.check(wanted)
            known = {server.peer_id for server in client.directory.list_route_servers()}
            if wanted <= known and not wanted & client.watch.list_silent():
                break
            await asyncio.sleep(0.2)
        # The nodes of a subnet dial each other.
        for hoster in hosters.running:
            others = [address for address in hosters.addresses if address != hoster.address]
            hoster.pipe.send(others)
            await asyncio.to_thread(hoster.pipe.recv)


@dataclass(frozen=True)
class Answer:
    tokens: list[Any]
    pause_s: float
    reroutes: int
    refills: int
    failures: str


async def ask(
    client: Any, number: int, *, at: int | None = None, then: Any = None, refills: bool = True
) -> Answer:
    """One seeded answer; ``then`` is called with the route after token ``at``."""
    from mesh.client.route_search import RoutingOptions
    from mesh.inference.sampling import Sampling

    prompt = [5 + (i * 37 + number) % 200 for i in range(24 + number)]
    sampling = Sampling(temperature=1.6, seed=number)
    tokens, pauses, last_s = [], [0.0], time.monotonic()
    answer = client.generate(
        prompt,
        max_new_tokens=NEW_TOKENS,
        sampling=sampling,
        ignore_eos=True,
        routing=RoutingOptions(refills=refills),
    )
    async for token in answer:
        now_s = time.monotonic()
        pauses.append(now_s - last_s)
        last_s = now_s
        tokens.append(token)
        if token.index == at:
            then([hop.peer_id for hop in token.trace.route])
    trace = tokens[-1].trace
    failures = ", ".join(f"{reason} at {str(peer)[-6:]}" for peer, reason in trace.failures)
    return Answer(tokens, max(pauses), trace.reroutes, trace.refills, failures)


async def measure(
    kills: int,
    faults: list[str],
    *,
    seed: int = 0,
    report: bool = True,
    ranges: int = RANGES,
    delay_s: float = 0.0,
    refills: bool = True,
) -> Result:
    """Break hosters ``kills`` times, by turns as ``faults`` say."""
    chance, result = random.Random(seed), Result()
    async with open_hosters(ranges=ranges, delay_s=delay_s) as (hosters, client):
        await wait_for_all(hosters, client)
        expected = []
        for number in range(PROMPTS):
            answer = await ask(client, number)
            expected.append([token.token_id for token in answer.tokens])
        for number, fault in zip(range(kills), itertools.cycle(faults)):
            prompt = number % PROMPTS
            broken: list[Process] = []

            def strike(route: list[str], fault: str = fault, broken: Any = broken) -> None:
                broken.append(hosters.find(chance.choice(route)))
                hosters.break_one(broken[0], fault)

            at = chance.randrange(NEW_TOKENS - 8)
            answer = await ask(client, prompt, at=at, then=strike, refills=refills)
            result.compare(answer.tokens, expected[prompt])
            result.kills += 1
            result.reroutes += answer.reroutes
            result.refills += answer.refills
            result.pauses_s.setdefault(fault, []).append(answer.pause_s)
            after = await ask(client, prompt)
            result.compare(after.tokens, expected[prompt])
            result.next_pauses_s.append(after.pause_s)
            if report:
                print(
                    f"{number + 1}: {fault}, pause {answer.pause_s:.2f} s, "
                    f"next {after.pause_s:.2f} s; {answer.failures} {after.failures}",
                    file=sys.stderr,
                )
            await hosters.bring_back(broken[0], fault)
            await wait_for_all(hosters, client)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faults", choices=("all", "killed", "frozen"), default="all")
    parser.add_argument("--ranges", type=int, default=RANGES)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of each link, one way")
    parser.add_argument("--replay", action="store_true", help="without refills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    faults = [fault for fault in FAULTS if args.faults in ("all", fault.split()[-1])]
    result = asyncio.run(
        measure(
            args.kills,
            faults,
            seed=args.seed,
            ranges=args.ranges,
            delay_s=args.delay_ms / 1000,
            refills=not args.replay,
        )
    )
    figures = result.render()
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    return 0 if result.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
