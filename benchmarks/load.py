"""What a client waits for at offered loads: first token and time between tokens, p50 and p99.

    python benchmarks/load.py                   a table
    python benchmarks/load.py --json            one JSON object
    python benchmarks/load.py --ranges 2        the model in two ranges (1 if absent)
    python benchmarks/load.py --seconds 60      how long each load is offered
    python benchmarks/load.py --seed 7          draws when requests come

Requests come at random times (a Poisson process), whether or not earlier ones have been answered,
as strangers' requests do. Loads are fractions of what a crowd of 16 reaches in the same run, and
each wait is also given as a ratio to that of a client alone in the same run. One request in eight
brings a long prompt. Hosters are processes of their own with real p2pds; weights are random.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in every hoster.
wait_passively()

from benchmarks.serving import SMALL, log  # noqa: E402
from benchmarks.swarm import Swarm, make_checkpoint, open_swarm  # noqa: E402

LOADS = (0.25, 0.5, 0.75, 0.9)
CROWD = 16
"""Clients that keep asking, to find the greatest throughput."""
CAPACITY_S = 10.0
ALONE_REQUESTS = 15
SHORT_PROMPT, LONG_PROMPT, LONG_EVERY = 32, 512, 8
NEW_TOKENS = 32
MAX_OPEN = 256
"""Requests open at once in this process. One more is counted as not sent."""


@dataclass
class Waits:
    """What some requests waited for, in seconds."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    refused: int = 0
    not_sent: int = 0


@dataclass(frozen=True)
class LoadRow:
    """One offered load. Waits in milliseconds; ratios are to a client alone, at the same rank."""

    offered: float
    requests: int
    refused: int
    not_sent: int
    first_p50_ms: float
    first_p99_ms: float
    between_p50_ms: float
    between_p99_ms: float
    first_p50_ratio: float
    between_p50_ratio: float


@dataclass(frozen=True)
class LoadReport:
    """The figures of one run; ``capacity`` is in requests a second."""

    ranges: int
    seed: int
    capacity: float
    alone_first_p50_ms: float
    alone_between_p50_ms: float
    rows: tuple[LoadRow, ...]


_numbers = itertools.count()


def find_rank(values: Sequence[float], rank: float) -> float:
    """Return the smallest value that is at least as large as a share ``rank`` of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(rank * len(ordered)))]


async def ask_once(swarm: Swarm, waits: Waits) -> None:
    """Send one request, whose prompt no other one has, and note when its tokens came."""
    from mesh.errors import MeshError

    number = next(_numbers)
    size = LONG_PROMPT if number % LONG_EVERY == LONG_EVERY - 1 else SHORT_PROMPT
    prompt = SMALL.make_prompt(size, shift=number)
    last, is_first = time.perf_counter(), True
    try:
        async for _ in swarm.client.generate(prompt, max_new_tokens=NEW_TOKENS, ignore_eos=True):
            now = time.perf_counter()
            (waits.first if is_first else waits.between).append(now - last)
            last, is_first = now, False
    except MeshError as error:
        waits.refused += 1
        log(f"refused: {error}")


async def measure_capacity(swarm: Swarm) -> float:
    """Return the requests a second that a crowd gets answered that never pauses."""
    started, answered = time.perf_counter(), 0

    async def keep_asking() -> None:
        nonlocal answered
        while time.perf_counter() < started + CAPACITY_S:
            await ask_once(swarm, Waits())
            answered += 1

    await asyncio.gather(*(keep_asking() for _ in range(CROWD)))
    return answered / (time.perf_counter() - started)


async def offer(swarm: Swarm, rate: float, seconds: float, draw: random.Random) -> Waits:
    """Send ``rate`` requests a second at random times, and wait for all answers."""
    waits, running = Waits(), set[asyncio.Task[None]]()
    next_at = time.perf_counter()
    ends_at = next_at + seconds
    async with asyncio.TaskGroup() as tasks:
        while (next_at := next_at + draw.expovariate(rate)) < ends_at:
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
            if len(running) >= MAX_OPEN:
                waits.not_sent += 1
                continue
            task = tasks.create_task(ask_once(swarm, waits))
            running.add(task)
            task.add_done_callback(running.discard)
    return waits


def make_row(offered: float, waits: Waits, alone: Waits) -> LoadRow:
    first, between = waits.first, waits.between
    return LoadRow(
        offered=offered,
        requests=len(first) + waits.refused,
        refused=waits.refused,
        not_sent=waits.not_sent,
        first_p50_ms=find_rank(first, 0.5) * 1e3,
        first_p99_ms=find_rank(first, 0.99) * 1e3,
        between_p50_ms=find_rank(between, 0.5) * 1e3,
        between_p99_ms=find_rank(between, 0.99) * 1e3,
        first_p50_ratio=find_rank(first, 0.5) / find_rank(alone.first, 0.5),
        between_p50_ratio=find_rank(between, 0.5) / find_rank(alone.between, 0.5),
    )


async def run(arguments: argparse.Namespace) -> LoadReport:
    """Measure a client alone, the capacity, and each load."""
    import torch

    torch.set_num_threads(1)
    log(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}")
    log(f"seed {arguments.seed}")
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(SMALL, Path(scratch) / "model")
        async with open_swarm(SMALL, folder, arguments.ranges, 1) as swarm:
            await ask_once(swarm, Waits())
            alone = Waits()
            for _ in range(ALONE_REQUESTS):
                await ask_once(swarm, alone)
            capacity = await measure_capacity(swarm)
            log(f"{capacity:.1f} requests/s of {NEW_TOKENS} tokens are answered at most")
            rows = []
            for share in LOADS:
                waits = await offer(swarm, share * capacity, arguments.seconds, draw)
                rows.append(make_row(share, waits, alone))
                log(f"load {share}: {rows[-1]}")
    return LoadReport(
        ranges=arguments.ranges,
        seed=arguments.seed,
        capacity=capacity,
        alone_first_p50_ms=statistics.median(alone.first) * 1e3,
        alone_between_p50_ms=statistics.median(alone.between) * 1e3,
        rows=tuple(rows),
    )


def describe(report: LoadReport) -> str:
    """Return the table for people."""
    lines = [
        f"{report.ranges} range(s), {report.capacity:.1f} requests/s at most; alone: first token"
        f" {report.alone_first_p50_ms:.1f} ms, between tokens {report.alone_between_p50_ms:.2f} ms",
        f"{'load':>5} {'requests':>8} {'refused':>7} {'first p50':>10} {'p99':>8}"
        f" {'between p50':>12} {'p99':>8}  (ms)",
    ]
    lines += [
        f"{row.offered:5.2f} {row.requests:8} {row.refused + row.not_sent:7}"
        f" {row.first_p50_ms:10.1f} {row.first_p99_ms:8.1f}"
        f" {row.between_p50_ms:12.2f} {row.between_p99_ms:8.2f}"
        for row in report.rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--ranges", type=int, default=1, help="hosters that share the model")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long a load is offered")
    parser.add_argument("--seed", type=int, default=1, help="draws when requests come")
    arguments = parser.parse_args()
    report = asyncio.run(run(arguments))
    if arguments.json:
        print(json.dumps(asdict(report)))
    else:
        print(describe(report))


if __name__ == "__main__":
    main()
