"""How fast the mesh serves, against transformers' generate in one process.

    python -m benchmarks.serving            medians and ratios, as a table
    python -m benchmarks.serving --json     one JSON object
    python -m benchmarks.serving --large    also TinyLlama-1.1B's shape in bfloat16

Every hoster is a process of its own with a real p2pd; the client and transformers take turns in
this one, round by round, so that a busy machine disturbs both alike. Checkpoints have random
weights and are made on the spot. A figure that was not measured is null.
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
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mesh.inference.threads import PASSIVE_WAIT_ENVIRONMENT

# Before torch is imported, here and in every hoster.
os.environ.update(PASSIVE_WAIT_ENVIRONMENT)

NETWORK_ID = b"b" * 32
READY_TIMEOUT_S = 180.0
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """One model to measure with. ``prompt`` and ``new`` are in tokens."""

    name: str
    dtype: str
    config: dict[str, int]
    prompt: int
    new: int
    rounds: int


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
    prompt=16,
    new=64,
    rounds=15,
)
LARGE = Shape(
    "model B: TinyLlama-1.1B's shape",
    "bfloat16",
    {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
    },
    prompt=128,
    new=16,
    rounds=5,
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


def make_checkpoint(shape: Shape, folder: Path) -> Path:
    """Write a random Llama of this shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape.config))
    model = model.to(getattr(torch, shape.dtype)).to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    return folder


def run_hoster(folder: str, span: tuple[int, int], dtype: str, threads: int, pipe: Any) -> None:
    """A hoster process: report the address, then the memory whenever asked."""
    asyncio.run(_serve_hoster(Path(folder), span, dtype, threads, pipe))


async def _serve_hoster(
    folder: Path, span: tuple[int, int], dtype: str, threads: int, pipe: Any
) -> None:
    from mesh.inference.engine import Engine, EngineLimits
    from mesh.inference.server import SessionServer
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.weights import load_shard

    config, located = load_config(folder), resolve_model_folder(str(folder))
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            Engine.open(
                lambda: load_shard(located, config, start=span[0], end=span[1], dtype=dtype),
                limits=EngineLimits(cache_tokens=4096),
                threads=threads,
            )
        )
        initial_peers = await asyncio.to_thread(pipe.recv)
        host, directory, announcer = await _open_node(stack, engine, initial_peers)
        SessionServer(host, engine, connect=directory.ensure_connected).register()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(engine.serve())
            announcing = tasks.create_task(announcer.run())
            pipe.send(list(await host.list_addresses()))
            while await asyncio.to_thread(pipe.recv) == "memory":
                pipe.send(measure_rss(os.getpid()) - _declared_bytes(engine))
            serving.cancel()
            announcing.cancel()


async def _open_node(
    stack: contextlib.AsyncExitStack, engine: Any, initial_peers: list[str]
) -> tuple[Any, Any, Any]:
    from keys.peer import PeerKey
    from mesh.p2p.config import HostConfig
    from mesh.p2p.hivemind_host import HivemindHost
    from mesh.routing.announcer import Announcer
    from mesh.routing.directory import Directory
    from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, make_heartbeat_policy
    from mesh.routing.info import NetworkInfo

    class HeartbeatsOnly:
        admit = staticmethod(
            make_heartbeat_policy(NETWORK_ID, is_member=lambda peer: True, clock=time.time)
        )

    key = PeerKey.generate()
    config = HostConfig(
        key=key,
        network_id=NETWORK_ID,
        record_policy=HeartbeatsOnly(),
        initial_peers=tuple(initial_peers),
    )
    host = await stack.enter_async_context(HivemindHost.open(config))
    directory = Directory(host, network_id=NETWORK_ID)
    addresses = tuple(await host.list_addresses())
    model = engine.config

    def describe() -> ServerInfo:
        return ServerInfo(
            role=ServerRole.HOSTER,
            state=ServerState.ONLINE,
            span=engine.blocks,
            throughput=1000,
            free_cache_tokens=engine.free_cache_tokens,
            dtype="",
            software="benchmark",
            addresses=addresses,
        )

    directory.serve(
        lambda: NetworkInfo(
            NETWORK_ID,
            bytes(32),
            "benchmark",
            model.num_blocks,
            model.max_context,
            model.vocab_size,
            "benchmark",
        )
    )
    announcer = Announcer(
        host, directory, key=key, network_id=NETWORK_ID, node_id=1, describe=describe
    )
    return host, directory, announcer


def _declared_bytes(engine: Any) -> int:
    """Return what weights and cache are allowed to take."""
    shard = engine._runner.weights
    tensors = [shard.embedding, shard.final_norm, shard.head]
    for block in shard.blocks:
        tensors += [getattr(block, name) for name in type(block).__slots__]
    unique = {t.data_ptr(): t.nbytes for t in tensors if t is not None}
    return sum(unique.values()) + engine._runner.cache.slab.nbytes


def measure_rss(pid: int) -> int:
    """Return a process's resident bytes."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


@contextlib.asynccontextmanager
async def open_swarm(
    shape: Shape, folder: Path, splits: list[tuple[int, int]], threads: int
) -> AsyncIterator[tuple[Any, list[Any]]]:
    """Start a hoster process for each range; yield a client and the pipes to the hosters."""
    from mesh.p2p.config import HostConfig
    from mesh.p2p.hivemind_host import HivemindHost

    context = multiprocessing.get_context("spawn")
    processes, pipes, addresses = [], [], []
    async with contextlib.AsyncExitStack() as stack:
        try:
            for span in splits:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=run_hoster, args=(str(folder), span, shape.dtype, threads, theirs)
                )
                process.start()
                processes.append(process)
                pipes.append(ours)
                ours.send(addresses[:1])
                async with asyncio.timeout(READY_TIMEOUT_S):
                    addresses += (await asyncio.to_thread(ours.recv))[:1]
            config = HostConfig(key=_client_key(), initial_peers=tuple(addresses), client_mode=True)
            host = await stack.enter_async_context(HivemindHost.open(config))
            host.set_network_id(NETWORK_ID)
            yield await _make_client(host, folder, addresses), pipes
        finally:
            for pipe in pipes:
                with contextlib.suppress(OSError):
                    pipe.send("stop")
            for process in processes:
                process.join(10)
                if process.is_alive():
                    process.kill()


def _client_key() -> Any:
    from keys.peer import PeerKey

    return PeerKey.generate()


async def _make_client(host: Any, folder: Path, addresses: list[str]) -> Any:
    from tokenizers import Tokenizer, models

    from keys.peer import PeerId
    from mesh.client.client import MeshClient
    from mesh.client.tokenizer import ChatTokenizer
    from mesh.model.config import load_config
    from mesh.routing.directory import Directory

    tokenizer = ChatTokenizer(Tokenizer(models.BPE({"a": 0}, [])), template=None, special_tokens={})
    directory = Directory(host, network_id=NETWORK_ID)
    peers = [PeerId.from_base58(address.rpartition("/p2p/")[2]) for address in addresses]
    client = MeshClient(
        host, directory, config=load_config(folder), tokenizer=tokenizer, peers=peers
    )
    await client.refresh()
    return client


@dataclass(frozen=True)
class Timing:
    """One answer: tokens a second over all of it, and seconds to its first token."""

    tokens_per_second: float
    first_token_s: float
    trace: Any = None


async def ask(client: Any, shape: Shape, *, shift: int = 0) -> Timing:
    """One greedy answer of the swarm."""
    from mesh.inference.sampling import Sampling

    prompt = [5 + (i * 37 + shift) % 1000 for i in range(shape.prompt)]
    # No token of the vocabulary stops the answer.
    sampling = Sampling(stop_token_ids=(2**32 - 1,))
    started = time.perf_counter()
    first, trace = None, None
    async for piece in client.generate(prompt, max_new_tokens=shape.new, sampling=sampling):
        first = first or time.perf_counter() - started
        trace = piece.trace
    return Timing(shape.new / (time.perf_counter() - started), first or 0.0, trace)


def make_reference(folder: Path, shape: Shape) -> Callable[[int], Timing]:
    """Return a function that measures transformers' generate."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = torch.tensor([[5 + (i * 37) % 1000 for i in range(shape.prompt)]])
    mask = torch.ones_like(prompt)

    def measure(new: int) -> Timing:
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                prompt, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None
            )
        elapsed = time.perf_counter() - started
        return Timing(new / elapsed, elapsed)

    return measure


async def compare(
    shape: Shape, folder: Path, splits: list[tuple[int, int]], threads: int, log: Any
) -> tuple[float, float]:
    """Return the swarm's median ratio to transformers: tokens a second, time to first token."""
    reference = make_reference(folder, shape)
    speeds, firsts = [], []
    async with open_swarm(shape, folder, splits, threads) as (client, _):
        await ask(client, shape)
        reference(shape.new)
        for _ in range(shape.rounds):
            ours, theirs, first = (
                await ask(client, shape),
                reference(shape.new),
                reference(1),
            )
            speeds.append(ours.tokens_per_second / theirs.tokens_per_second)
            firsts.append(ours.first_token_s / first.first_token_s)
    low, high = min(speeds), max(speeds)
    log(
        f"{shape.name}, {len(splits)} range(s): {statistics.median(speeds):.2f}x "
        f"({low:.2f} to {high:.2f}), first token {statistics.median(firsts):.2f}x"
    )
    return statistics.median(speeds), statistics.median(firsts)


async def measure_crowd(shape: Shape, folder: Path, threads: int, log: Any) -> float:
    """Return eight clients' total speed by one client's."""
    blocks = shape.config["num_hidden_layers"]
    ratios = []
    async with open_swarm(shape, folder, [(0, blocks)], threads) as (client, _):
        await ask(client, shape)
        for _ in range(max(3, shape.rounds // 3)):
            alone = await ask(client, shape)
            started = time.perf_counter()
            await asyncio.gather(*(ask(client, shape, shift=i) for i in range(8)))
            crowd = 8 * shape.new / (time.perf_counter() - started)
            ratios.append(crowd / alone.tokens_per_second)
    log(f"{shape.name}, eight clients: {statistics.median(ratios):.2f}x of one")
    return statistics.median(ratios)


async def measure_memory(
    shape: Shape, folder: Path, threads: int, log: Any, *, requests: int = 1000
) -> tuple[float, float]:
    """Return a hoster's MiB beside weights and cache, and its growth over many requests."""
    blocks = shape.config["num_hidden_layers"]
    brief = Shape(shape.name, shape.dtype, shape.config, prompt=8, new=2, rounds=1)
    async with open_swarm(shape, folder, [(0, blocks)], threads) as (client, pipes):
        for _ in range(50):
            await ask(client, brief)
        before = await _ask_memory(pipes[0])
        for _ in range(requests):
            await ask(client, brief)
        after = await _ask_memory(pipes[0])
    overhead, growth = after / MEBIBYTE, (after - before) / MEBIBYTE
    log(f"{shape.name}: {overhead:.0f} MiB beside weights and cache, {growth:+.1f} MiB in 1000")
    return overhead, growth


async def _ask_memory(pipe: Any) -> int:
    pipe.send("memory")
    return int(await asyncio.to_thread(pipe.recv))


async def run(arguments: argparse.Namespace) -> Report:
    """Measure what was asked for."""
    import torch

    def log(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    torch.set_num_threads(arguments.threads)
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        small = make_checkpoint(SMALL, Path(scratch) / "small")
        report.small_one_range_ratio, _ = await compare(
            SMALL, small, [(0, 8)], arguments.threads, log
        )
        report.small_two_range_ratio, _ = await compare(
            SMALL, small, [(0, 4), (4, 8)], arguments.threads, log
        )
        report.rss_overhead_mib, report.growth_mib_1000 = await measure_memory(
            SMALL, small, arguments.threads, log
        )
        if arguments.large:
            large = make_checkpoint(LARGE, Path(scratch) / "large")
            report.one_range_ratio, report.ttft_ratio = await compare(
                LARGE, large, [(0, 22)], arguments.threads, log
            )
            report.two_range_ratio, _ = await compare(
                LARGE, large, [(0, 11), (11, 22)], arguments.threads, log
            )
            report.concurrency_8_ratio = await measure_crowd(LARGE, large, arguments.threads, log)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--large", action="store_true", help="also measure the 1.1B shape")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
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
