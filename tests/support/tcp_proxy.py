"""A TCP proxy on loopback that tests tell when to cut, refuse or swallow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK = 1 << 16

Watch = Callable[[bytes], bool]
"""Looks at what passes; True cuts the connection before it is passed on."""


class TcpProxy:
    """Passes bytes on to one port. ``cut_requests`` and ``cut_answers`` decide per chunk."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.is_refusing = False
        self.cut_requests: Watch = lambda _: False
        self.cut_answers: Watch = lambda _: False
        self.connections = 0
        self.cuts = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut_all(self) -> None:
        """Break every open connection without a word."""
        self.cuts += 1
        for writer in tuple(self._open):
            writer.transport.abort()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_refusing:
            writer.transport.abort()
            return
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        pair = {writer, upstream}
        self._open |= pair
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(
                    self._pump(reader, upstream, lambda data: self.cut_requests(data))
                )
                tasks.create_task(
                    self._pump(upstream_reader, writer, lambda data: self.cut_answers(data))
                )
        finally:
            self._open -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_cut: Watch
    ) -> None:
        try:
            while data := await source.read(CHUNK):
                if is_cut(data):
                    self.cut_all()
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


@asynccontextmanager
async def run_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of a port of this machine."""
    proxy = TcpProxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
