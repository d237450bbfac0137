"""What signing costs a hop: a signed stream against a bare p2pd stream, interleaved.

python -m benchmarks.p2p_hop
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from keys.peer import PeerKey
from mesh.errors import StreamBroken
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.p2p.interface import Stream

ROUNDS = 400
SIZES = (0, 4096, 8192, 65_536)
LENGTH_SIZE = 8
NETWORK_ID = bytes(32)


async def echo_signed(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


async def echo_bare(
    info: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            length = await reader.readexactly(LENGTH_SIZE)
            writer.write(length + await reader.readexactly(int.from_bytes(length)))
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def measure_ms(hop: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await hop()
    return (time.perf_counter() - started) * 1000


async def main() -> None:
    async with HivemindHost.open(HostConfig(key=PeerKey.generate())) as server:
        server.serve_stream("echo", echo_signed)
        await server._p2p.add_binary_stream_handler("bare", echo_bare)
        peers = tuple(await server.list_addresses())
        config = HostConfig(key=PeerKey.generate(), initial_peers=peers)
        async with HivemindHost.open(config) as client:
            stream = await client.open_stream(server.peer_id, "echo", timeout_s=10)
            channel = await client._daemon.open_channel(server.peer_id, "bare")
            for size in SIZES:
                payload = bytes(size)

                async def signed_hop(payload: bytes = payload) -> None:
                    await stream.send(payload)
                    await stream.receive()

                async def bare_hop(payload: bytes = payload) -> None:
                    await channel.write(len(payload).to_bytes(LENGTH_SIZE) + payload)
                    await channel.read_exactly(LENGTH_SIZE + len(payload))

                pairs = [
                    (await measure_ms(bare_hop), await measure_ms(signed_hop))
                    for _ in range(ROUNDS)
                ]
                bare, signed = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratio = signed / bare
                print(f"{size:>6} B   bare {bare:.3f} ms   signed {signed:.3f} ms   x{ratio:.2f}")
            channel.close()
            try:
                await stream.finish()
                await stream.receive()
            except StreamBroken:
                pass


if __name__ == "__main__":
    asyncio.run(main())
