"""How fast the mesh serves, against transformers' generate in one process.

    python benchmarks/serving.py                everything, as a table
    python benchmarks/serving.py --json         one JSON object
    python benchmarks/serving.py --threads 2    torch threads of each process (1 if absent)
    python benchmarks/serving.py --skip-large   without the 1.1B shape (8 GB of memory)

Every hoster is a process of its own with a real p2pd. Both swarms and transformers stand ready
beside each other and take turns, round by round, so that a busy machine disturbs all alike; a
ratio is the median over the rounds. Checkpoints have random weights and are made on the spot. A
figure that was not measured is null, and a line on stderr says why.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in every hoster.
wait_passively()

from benchmarks.swarm import (  # noqa: E402
    TINYLLAMA,
    Shape,
    Swarm,
    Timing,
    ask,
    make_checkpoint,
    open_swarm,
)

MEBIBYTE = 1 << 20
CROWD = 8
CROWD_NEW_TOKENS = 32
REQUESTS = 1000
SETTLING_REQUESTS = 50
"""Requests before the growth is counted: pools and caches fill with the first ones."""

SMALL = Shape(
    "model A: 8 layers, hidden 256",
    "float32",
    {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
    },
    rounds=15,
    new=64,
)
LARGE = Shape(
    "model B: TinyLlama-1.1B's shape",
    "bfloat16",
    TINYLLAMA,
    rounds=5,
    new=16,
)


@dataclass
class Report:
    """The figures of one run; None was not measured."""

    one_range_ratio: float | None = None
    two_range_ratio: float | None = None
    ttft_ratio: float | None = None
    small_one_range_ratio: float | None = None
    small_two_range_ratio: float | None = None
    hop_ratio: float | None = None
    concurrency_8_ratio: float | None = None
    rss_overhead_mib: float | None = None
    growth_mib_1000: float | None = None


@dataclass
class Rounds:
    """What the rounds of one comparison gave, one number a round."""

    reference: list[float] = field(default_factory=list)
    one_range: list[float] = field(default_factory=list)
    two_ranges: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    hop: list[float] = field(default_factory=list)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def make_reference(folder: Path) -> Callable[[list[int], int], Timing]:
    """Return a function that measures transformers' generate."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def measure(prompt: list[int], new: int) -> Timing:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None
            )
        elapsed = time.perf_counter() - started
        return Timing(new / elapsed, elapsed)

    return measure


async def compare(shape: Shape, folder: Path, threads: int, *, rounds: int) -> Rounds:
    """Measure one range, two ranges and transformers in turns."""
    reference = make_reference(folder)
    prompt, long_prompt = shape.make_prompt(shape.prompt), shape.make_prompt(shape.long_prompt)
    found = Rounds()
    async with (
        open_swarm(shape, folder, 1, threads) as one,
        open_swarm(shape, folder, 2, threads) as two,
    ):
        for swarm in (one, two):
            await ask(swarm.client, prompt, shape.new)
        reference(prompt, 4)
        for _ in range(rounds):
            theirs = reference(prompt, shape.new).tokens_per_second
            alone = await ask(one.client, prompt, shape.new)
            split = await ask(two.client, prompt, shape.new)
            found.reference.append(theirs)
            found.one_range.append(alone.tokens_per_second / theirs)
            found.two_ranges.append(split.tokens_per_second / theirs)
            found.hop.append(await measure_hop(shape, two, split))
            their_first = reference(long_prompt, 1).first_token_s
            our_first = await ask(one.client, long_prompt, 1)
            found.first_token.append(our_first.first_token_s / their_first)
    log(f"{shape.name}, {shape.dtype}, {threads} thread(s) a process, {rounds} rounds:")
    log(f"  transformers generate      {describe(found.reference)} tokens/s")
    log(f"  one range                  {describe(found.one_range)} x transformers")
    log(f"  two ranges                 {describe(found.two_ranges)} x transformers")
    log(f"  first of {shape.long_prompt} tokens        {describe(found.first_token)} x its time")
    log(f"  hop                        {describe(found.hop)} x a bare round trip")
    return found


async def measure_hop(shape: Shape, swarm: Swarm, answer: Timing) -> float:
    """Return what the way to the second range and back took in ``answer``, by a bare round trip.

    The bare one is a raw p2pd stream between the same processes with as many bytes each way and
    as much computing at both ends, which reads as much memory. What the ranges computed is left
    out on both sides.
    """
    # The prompt's step comes first, and is no decode step.
    steps = answer.trace.hop_times_us[1:]
    here, there = (statistics.median(step[i] for step in steps) / 1e6 for i in (0, 1))
    signed_s = statistics.median(step[2] - step[0] - step[1] for step in steps) / 1e6
    request = {
        "peer": swarm.peers[1],
        "size": shape.hidden_bytes,
        "here_s": here,
        "there_s": there,
        "count": len(steps),
    }
    return signed_s / float(await swarm.query(0, request))


async def measure_crowd(shape: Shape, folder: Path, threads: int, *, rounds: int) -> float:
    """Return eight clients' total speed by one client's, in the same dtype."""
    ratios = []
    async with open_swarm(shape, folder, 1, threads) as swarm:
        prompts = [shape.make_prompt(shape.prompt, shift=i) for i in range(CROWD)]
        await ask(swarm.client, prompts[0], 4)
        for _ in range(rounds):
            alone = await ask(swarm.client, prompts[0], CROWD_NEW_TOKENS)
            started = time.perf_counter()
            await asyncio.gather(*(ask(swarm.client, p, CROWD_NEW_TOKENS) for p in prompts))
            crowd = CROWD * CROWD_NEW_TOKENS / (time.perf_counter() - started)
            ratios.append(crowd / alone.tokens_per_second)
    log(f"{shape.name}, {shape.dtype}: eight clients {describe(ratios)} x one client's tokens/s")
    return statistics.median(ratios)


async def measure_memory(shape: Shape, folder: Path, threads: int) -> tuple[float, float]:
    """Return a hoster's MiB beside weights and cache, and its growth over many requests."""
    prompt = shape.make_prompt(8)
    async with open_swarm(shape, folder, 1, threads) as swarm:
        for _ in range(SETTLING_REQUESTS):
            await ask(swarm.client, prompt, 2)
        before = await swarm.query(0, "memory")
        for _ in range(REQUESTS):
            await ask(swarm.client, prompt, 2)
        after = await swarm.query(0, "memory")
    overhead, growth = after / MEBIBYTE, (after - before) / MEBIBYTE
    log(f"a hoster: {overhead:.0f} MiB beside weights and cache, {growth:+.1f} in {REQUESTS}")
    return overhead, growth


async def run(arguments: argparse.Namespace) -> Report:
    """Measure what was asked for."""
    import torch

    torch.set_num_threads(arguments.threads)
    report, threads = Report(), arguments.threads
    log(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(SMALL, Path(scratch) / "small")
        small = await compare(SMALL, folder, threads, rounds=arguments.rounds or SMALL.rounds)
        report.small_one_range_ratio = statistics.median(small.one_range)
        report.small_two_range_ratio = statistics.median(small.two_ranges)
        report.hop_ratio = statistics.median(small.hop)
        if arguments.skip_memory:
            log("not run: memory (--skip-memory)")
        else:
            report.rss_overhead_mib, report.growth_mib_1000 = await measure_memory(
                SMALL, folder, threads
            )
        if arguments.skip_large:
            log("not run: the 1.1B shape, and with it the crowd (--skip-large)")
        else:
            await measure_large(report, Path(scratch), arguments)
    log(f"load {os.getloadavg()[0]:.1f} at the end")
    return report


async def measure_large(report: Report, scratch: Path, arguments: argparse.Namespace) -> None:
    """Fill in the figures of TinyLlama's shape."""
    folder = make_checkpoint(LARGE, scratch / "large")
    rounds = arguments.rounds or LARGE.rounds
    large = await compare(LARGE, folder, arguments.threads, rounds=rounds)
    report.one_range_ratio = statistics.median(large.one_range)
    report.two_range_ratio = statistics.median(large.two_ranges)
    report.ttft_ratio = statistics.median(large.first_token)
    report.concurrency_8_ratio = await measure_crowd(
        LARGE, folder, arguments.threads, rounds=max(1, rounds // 2)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison")
    parser.add_argument("--skip-large", action="store_true", help="without the 1.1B shape")
    parser.add_argument("--skip-memory", action="store_true", help="without the 1,000 requests")
    arguments = parser.parse_args()
    report = asyncio.run(run(arguments))
    figures = {
        name: None if value is None else round(value, 3) for name, value in asdict(report).items()
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {'not measured' if value is None else value}")


if __name__ == "__main__":
    main()
