"""The proxies of the chaos benchmark delay and cut, and change no byte."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from benchmarks.chaos_grounds import Ground, NamespaceGround, SlowGround
from benchmarks.chaos_network import ChainProcess
from benchmarks.slow_links import CHUNK, MAX_CHUNKS, Link, LinkProxy
from tests.support.commands import find_free_port

ROUNDS = 100
"""Of the event loop: enough for a task that was told to end."""
BYTES = Random(5).randbytes(3 * CHUNK)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
    finally:
        writer.transport.abort()


@asynccontextmanager
async def open_echo(ground: SlowGround, path) -> AsyncIterator[int]:
    """Yield the port of a proxy before a server that returns what it gets."""
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        target = server.sockets[0].getsockname()[1]
        async with ground.open([path], target) as (place,):
            yield int(place.chain_url.rpartition(":")[2])


@pytest.mark.parametrize("ground", [Ground, NamespaceGround])
def test_the_chain_starts_where_the_ground_wants_it(tmp_path, ground):
    async def run() -> None:
        chain = ChainProcess(
            tmp_path, host=ground.chain_host, port=find_free_port(), block_seconds=1.0
        )
        try:
            await chain.start("instant")
        finally:
            await chain.end(signal.SIGTERM)

    asyncio.run(run())


@pytest.mark.parametrize(("delay_s", "loss"), [(0.0, 0.0), (0.05, 0.0), (0.01, 0.5)])
def test_a_slow_link_passes_every_byte_in_order_and_late(tmp_path, delay_s, loss):
    async def run() -> float:
        ground = SlowGround(Random(1))
        ground.link.delay_s, ground.link.loss = delay_s, loss
        async with open_echo(ground, tmp_path) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began_s = asyncio.get_running_loop().time()
            writer.write(BYTES)
            assert await reader.readexactly(len(BYTES)) == BYTES
            writer.close()
            return asyncio.get_running_loop().time() - began_s

    assert asyncio.run(run()) >= 2 * delay_s


def test_a_cut_link_ends_while_much_waits_in_it(tmp_path):
    async def run() -> None:
        ground = SlowGround(Random(1))
        ground.link.delay_s = 5.0
        async with open_echo(ground, tmp_path) as port, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(2 * MAX_CHUNKS * CHUNK))
            await asyncio.sleep(0.2)
            ground.cut_all()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def run_through(link, talk):
    """Run ``talk(reader, writer)`` with an echo behind a proxy of ``link``."""

    async def run():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            target = server.sockets[0].getsockname()[1]
            async with LinkProxy(link).serve(target) as port, asyncio.timeout(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                found = await talk(reader, writer)
                writer.close()
                return found

    return asyncio.run(run())


def test_a_narrow_link_takes_the_time_of_its_bytes():
    async def talk(reader, writer):
        began_s = asyncio.get_running_loop().time()
        writer.write(BYTES)
        assert await reader.readexactly(len(BYTES)) == BYTES
        return asyncio.get_running_loop().time() - began_s

    # The bytes of the second direction follow those of the first chunk by chunk.
    assert run_through(Link(bandwidth=4 * len(BYTES)), talk) >= 0.25


def test_a_stalled_link_passes_a_part_and_goes_on_where_it_stopped():
    link = Link()

    async def talk(reader, writer):
        link.stall(after=100)
        writer.write(BYTES)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.readexactly(1)
        stalled = link.passed
        link.resume()
        assert await reader.readexactly(len(BYTES)) == BYTES
        return stalled

    assert run_through(link, talk) == 100


def test_jitter_changes_no_order():
    async def talk(reader, writer):
        for number in range(50):
            writer.write(bytes((number,)) * 100)
            await writer.drain()
        found = await reader.readexactly(5000)
        return found == b"".join(bytes((number,)) * 100 for number in range(50))

    assert run_through(Link(delay_s=0.001, jitter_s=0.02), talk)
