"""Hosters in processes of their own with real p2pds, and a client: what is measured.

Run by serving.py. A hoster answers on a pipe: its memory, and bare round trips to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.slow_links import LinkProxy
from subnet.localnet.environment import find_free_port

NETWORK_ID = b"b" * 32
READY_TIMEOUT_S = 180.0
CACHE_TOKENS = 4096
TINYLLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
}
"""TinyLlama-1.1B's shape, as its config.json states it."""
BARE_PROTOCOL = "bare"
# How many bytes follow, how long to compute before the reply.
BARE_HEADER = struct.Struct("<II")
# How long it took, and as many bytes as a token's frame has.
BARE_REPLY = struct.Struct("<I60x")


@dataclass(frozen=True)
class Shape:
    """One model to measure with. ``prompt``, ``long_prompt`` and ``new`` are in tokens."""

    name: str
    dtype: str
    config: dict[str, int]
    rounds: int
    new: int
    prompt: int = 16
    long_prompt: int = 128
    device: str = "cpu"

    @property
    def layers(self) -> int:
        return self.config["num_hidden_layers"]

    @property
    def hidden_bytes(self) -> int:
        return self.config["hidden_size"] * (4 if self.dtype == "float32" else 2)

    def make_prompt(self, tokens: int, *, shift: int = 0) -> list[int]:
        return [5 + (i * 37 + shift) % 1000 for i in range(tokens)]


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


def run_hoster(
    folder: str,
    span: tuple[int, int],
    dtype: str,
    device: str,
    threads: int,
    pipe: Any,
    place: tuple[str, str] | None = None,
    deterministic: bool = False,
    is_alone: bool = False,
) -> None:
    """A hoster process: report the address, then answer what the pipe asks.

    ``place`` is what to listen on and what others dial, where that is not the same. One that
    ``is_alone`` has a roster with itself only, as nodes have one; else all peers are members.
    """
    serving = _serve_hoster(
        Path(folder), span, dtype, device, threads, pipe, place, deterministic, is_alone
    )
    asyncio.run(serving)


async def _serve_hoster(
    folder: Path,
    span: tuple[int, int],
    dtype: str,
    device: str,
    threads: int,
    pipe: Any,
    place: tuple[str, str] | None,
    deterministic: bool,
    is_alone: bool,
) -> None:
    from mesh.inference.engine import Engine, EngineLimits
    from mesh.inference.session_server import SessionServer
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.weights import load_shard

    located = resolve_model_folder(str(folder))
    config = load_config(located.source)
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            Engine.open(
                lambda: load_shard(
                    located, config, start=span[0], end=span[1], dtype=dtype, device=device
                ),
                limits=EngineLimits(cache_tokens=CACHE_TOKENS),
                threads=threads,
                deterministic=deterministic,
            )
        )
        initial_peers = await asyncio.to_thread(pipe.recv)
        host, directory, announcer = await _open_node(
            stack, engine, initial_peers, place, is_alone=is_alone
        )
        server = SessionServer(host, engine, connect=directory.ensure_connected)
        server.register()
        await host._p2p.add_binary_stream_handler(BARE_PROTOCOL, _answer_bare)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(engine.serve())
            announcing = tasks.create_task(announcer.run())
            pipe.send(list(await host.list_addresses()))
            await _answer_pipe(pipe, engine, host, server)
            serving.cancel()
            announcing.cancel()


async def _answer_pipe(pipe: Any, engine: Any, host: Any, server: Any) -> None:
    """Answer the parent until it says stop or is gone."""
    while True:
        try:
            request = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        if request == "stop":
            return
        if isinstance(request, list):
            # As a node of a subnet dials all the others.
            pipe.send([await _is_dialled(host, address) for address in request])
        elif isinstance(request, int):
            server.max_in_flight = request
            pipe.send(request)
        elif request == "rows":
            pipe.send((engine.measures.prompt_rows, engine.measures.decode_rows))
        elif request == "memory":
            pipe.send(measure_rss(os.getpid()) - _declared_bytes(engine))
        else:
            pipe.send(await _measure_bare(host, **request))


async def _is_dialled(host: Any, address: str) -> bool:
    from mesh.errors import MeshError

    try:
        await host.connect([address])
    except MeshError:
        return False
    return True


async def _open_node(
    stack: contextlib.AsyncExitStack,
    engine: Any,
    initial_peers: list[str],
    place: tuple[str, str] | None,
    *,
    is_alone: bool,
) -> tuple[Any, Any, Any]:
    from keys.peer import PeerKey
    from mesh.p2p.hivemind_host import HivemindHost
    from mesh.routing.directory import Directory
    from mesh.routing.info import NetworkInfo

    key = PeerKey.generate()
    config = make_host_config(key, initial_peers=tuple(initial_peers))
    if is_alone:
        config = replace(config, is_member=lambda peer: peer == key.peer_id)
    if place is not None:
        config = replace(config, host_maddrs=place[:1], announce_maddrs=place[1:])
    host = await stack.enter_async_context(HivemindHost.open(config))
    directory = Directory(host, network_id=NETWORK_ID)
    addresses = tuple(await host.list_addresses())
    model = engine.config
    directory.serve(
        lambda: NetworkInfo(
            NETWORK_ID,
            bytes(32),
            "benchmark",
            model.num_layers,
            model.max_context,
            model.vocab_size,
            "benchmark",
        )
    )
    return host, directory, make_announcer(host, directory, engine, key=key, addresses=addresses)


def make_host_config(key: Any, **options: Any) -> Any:
    """Return the configuration of a peer in the benchmarks' network, which keeps heartbeats."""
    from mesh.p2p.config import HostConfig
    from mesh.routing.heartbeat import make_heartbeat_policy

    class HeartbeatsOnly:
        admit = staticmethod(
            make_heartbeat_policy(NETWORK_ID, is_member=lambda peer: True, clock=time.time)
        )

    return HostConfig(key=key, network_id=NETWORK_ID, record_policy=HeartbeatsOnly(), **options)


def make_announcer(
    host: Any, directory: Any, engine: Any, *, key: Any, addresses: tuple[str, ...]
) -> Any:
    """Return what announces a hoster of ``engine``'s layers at these addresses."""
    from mesh.routing.announcer import Announcer
    from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState

    def describe() -> ServerInfo:
        return ServerInfo(
            role=ServerRole.HOSTER,
            state=ServerState.ONLINE,
            span=engine.layers,
            throughput=1000,
            free_cache_tokens=engine.free_cache_tokens,
            dtype="",
            software="benchmark;f",
            addresses=addresses,
        )

    return Announcer(host, directory, key=key, network_id=NETWORK_ID, node_id=1, describe=describe)


@functools.cache
def _make_weights() -> list[Any]:
    """Return 32 MiB in pieces of 256 KiB, as much as half of model A."""
    import numpy as np

    return np.array_split(np.ones(8 << 20, dtype=np.float32), 128)


def _compute(seconds: float) -> float:
    """Read memory as a range reads its weights, which leaves caches as cold; return how long."""
    started = time.perf_counter()
    for piece in itertools.cycle(_make_weights()):
        if time.perf_counter() - started >= seconds:
            break
        piece.max()
    return time.perf_counter() - started


async def _answer_bare(
    info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Nothing but bytes: no frames, no tags, no thread."""
    try:
        while True:
            size, work_us = BARE_HEADER.unpack(await reader.readexactly(BARE_HEADER.size))
            await reader.readexactly(size)
            writer.write(BARE_REPLY.pack(int(_compute(work_us / 1e6) * 1e6)))
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def _measure_bare(
    host: Any, *, peer: str, size: int, here_s: float, there_s: float, count: int
) -> float:
    """Return the median seconds of a raw-stream round trip, without the computing at its ends."""
    from keys.peer import PeerId

    channel = await host._daemon.open_channel(PeerId.from_base58(peer), BARE_PROTOCOL)
    message = BARE_HEADER.pack(size, int(there_s * 1e6)) + bytes(size)
    trips = []
    for _ in range(count):
        _compute(here_s)
        started = time.perf_counter()
        await channel.write(message)
        (worked_us,) = BARE_REPLY.unpack(await channel.read_exactly(BARE_REPLY.size))
        trips.append(time.perf_counter() - started - worked_us / 1e6)
    channel.close()
    return statistics.median(trips)


def _declared_bytes(engine: Any) -> int:
    """Return what weights and cache are allowed to take."""
    shard = engine._runner.weights
    tensors = [shard.embedding, shard.final_norm, shard.head]
    for layer in shard.layers:
        tensors += [getattr(layer, name) for name in type(layer).__slots__]
    unique = {t.data_ptr(): t.nbytes for t in tensors if t is not None}
    return sum(unique.values()) + engine._runner.cache.slab.nbytes


def measure_rss(pid: int) -> int:
    """Return a process's resident bytes."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


@dataclass(frozen=True)
class Swarm:
    """A client, and each hoster's pipe, peer id, first address and process id."""

    client: Any
    pipes: list[Any]
    peers: list[str]
    addresses: list[str]
    pids: list[int]

    async def query(self, hoster: int, request: Any) -> Any:
        """Ask a hoster over its pipe."""
        self.pipes[hoster].send(request)
        return await asyncio.to_thread(self.pipes[hoster].recv)


@contextlib.asynccontextmanager
async def open_swarm(
    shape: Shape,
    folder: Path,
    ranges: int,
    threads: int,
    *,
    proxy: LinkProxy | None = None,
    is_alone: bool = False,
) -> AsyncIterator[Swarm]:
    """Start a hoster process for each of ``ranges`` equal parts of the model.

    Each is behind ``proxy``, if there is one, for the client and for the others. ``is_alone`` is
    for one range: its hoster knows that no other peer is a member.
    """
    from keys.peer import PeerKey
    from mesh.p2p.config import HostConfig
    from mesh.p2p.hivemind_host import HivemindHost

    context = multiprocessing.get_context("spawn")
    bounds = [shape.layers * i // ranges for i in range(ranges + 1)]
    processes, pipes, addresses = [], [], []
    async with contextlib.AsyncExitStack() as stack:
        try:
            for span in zip(bounds, bounds[1:], strict=False):
                ours, theirs = context.Pipe()
                place = None
                if proxy is not None:
                    own = find_free_port()
                    outside = await stack.enter_async_context(proxy.serve(own))
                    place = (f"/ip4/127.0.0.1/tcp/{own}", f"/ip4/127.0.0.1/tcp/{outside}")
                process = context.Process(
                    target=run_hoster,
                    args=(str(folder), span, shape.dtype, shape.device, threads, theirs, place),
                    kwargs={"is_alone": is_alone},
                )
                process.start()
                processes.append(process)
                pipes.append(ours)
                ours.send(addresses[:1])
                async with asyncio.timeout(READY_TIMEOUT_S):
                    addresses += (await asyncio.to_thread(ours.recv))[:1]
            config = HostConfig(
                key=PeerKey.generate(), initial_peers=tuple(addresses), client_mode=True
            )
            host = await stack.enter_async_context(HivemindHost.open(config))
            host.set_network_id(NETWORK_ID)
            peers = [address.rpartition("/p2p/")[2] for address in addresses]
            pids = [process.pid or 0 for process in processes]
            yield Swarm(await _make_client(host, folder, peers), pipes, peers, addresses, pids)
        finally:
            for pipe in pipes:
                with contextlib.suppress(OSError):
                    pipe.send("stop")
            for process in processes:
                await asyncio.to_thread(process.join, 10)
                if process.is_alive():
                    process.kill()


async def _make_client(host: Any, folder: Path, peers: list[str]) -> Any:
    from tokenizers import Tokenizer, models

    from keys.peer import PeerId
    from mesh.client.client import MeshClient
    from mesh.client.tokenizer import ChatTokenizer
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.routing.directory import Directory

    tokenizer = ChatTokenizer(Tokenizer(models.BPE({"a": 0}, [])), template=None, special_tokens={})
    directory = Directory(host, network_id=NETWORK_ID)
    known = [PeerId.from_base58(peer) for peer in peers]
    client = MeshClient(
        host,
        directory,
        config=load_config(resolve_model_folder(str(folder)).source),
        tokenizer=tokenizer,
        peers=known,
    )
    await client.refresh()
    return client


@dataclass(frozen=True)
class Timing:
    """One answer: tokens a second over all of it, seconds to its first token, and its trace."""

    tokens_per_second: float
    first_token_s: float
    trace: Any = None


async def ask(client: Any, prompt: list[int], new: int) -> Timing:
    """One greedy answer of the swarm."""
    started = time.perf_counter()
    first, trace = None, None
    async for piece in client.generate(prompt, max_new_tokens=new, ignore_eos=True):
        first = first or time.perf_counter() - started
        trace = piece.trace
    return Timing(new / (time.perf_counter() - started), first or 0.0, trace)
