"""A WebSocket proxy in front of a chain that tests tell what to answer in the chain's place."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PASS: dict[str, Any] = {}
"""Lets a request through to the chain."""

Answer = Callable[[str], dict[str, Any] | None]
"""From a request's method to the answer's ``result`` or ``error`` member; None: no answer."""


def refuse(code: int, message: str, *, methods: str = "") -> Answer:
    """Refuse the methods that begin with ``methods``."""
    error = {"error": {"code": code, "message": message}}
    return lambda method: error if method.startswith(methods) else PASS


class RpcProxy:
    """Passes requests on to a chain, or answers them as ``answer`` says."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: Server | None = None
        self.answer: Answer = lambda _method: PASS
        self.is_announcing = True
        """False swallows what subscriptions say."""
        self.announcement_delay_s = 0.0
        self.announced: dict[str, Any] | None = None
        """The header in every announcement, if given."""
        self.requests: Counter[str] = Counter()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def cut_all(self) -> None:
        """Close every open connection."""
        assert self._server is not None
        for connection in tuple(self._server.connections):
            await connection.close()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        serving = serve(self._serve, "127.0.0.1", 0, compression=None, close_timeout=0.1)
        async with serving as self._server:
            yield

    async def _serve(self, client: ServerConnection) -> None:
        async with connect(self._target, compression=None, max_size=None) as chain:
            async with asyncio.TaskGroup() as tasks:
                passing = tasks.create_task(self._pass_answers(chain, client))
                await self._pass_requests(client, chain)
                passing.cancel()

    async def _pass_requests(self, client: ServerConnection, chain: ClientConnection) -> None:
        try:
            async for message in client:
                request = json.loads(message)
                self.requests[request["method"]] += 1
                answer = self.answer(request["method"])
                if answer is PASS:
                    await chain.send(message)
                elif answer is not None:
                    await client.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}))
        except ConnectionClosed:
            pass

    async def _pass_answers(self, chain: ClientConnection, client: ServerConnection) -> None:
        try:
            async for message in chain:
                if '"method"' in str(message):
                    await asyncio.sleep(self.announcement_delay_s)
                    if not self.is_announcing:
                        continue
                    if self.announced is not None:
                        announcement = json.loads(message)
                        announcement["params"]["result"] = self.announced
                        message = json.dumps(announcement)
                await client.send(message)
        except ConnectionClosed:
            pass


@asynccontextmanager
async def run_rpc_proxy(target: str) -> AsyncIterator[RpcProxy]:
    """Run a proxy in front of the chain at ``target``."""
    proxy = RpcProxy(target)
    async with proxy.run():
        yield proxy
