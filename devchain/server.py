"""The WebSocket server that serves one development chain to its clients."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    nullcontext,
)
from ipaddress import ip_address
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from devchain.block_producer import BlockProducer
from devchain.block_store import BlockStore
from devchain.blocks import Block
from devchain.chain import Chain, ForeignBlock
from devchain.config import BlockMode, DevChainConfig, describe_rules
from devchain.errors import DevchainUnusable
from devchain.extrinsics import load_verifier
from devchain.rpc_connection import RpcConnection

FollowReplay = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Hears how many stored blocks are replayed; what it gives hears of each that is done."""

MAX_CONNECTIONS = 256
MAX_MESSAGE_SIZE = 2 * 1024 * 1024
CLOSE_TOO_SLOW = 1008
CLOSE_TRY_LATER = 1013
_SEED_SIZE = 16
_CLOSE_TIMEOUT_S = 1.0

_connection_logger = logging.getLogger("websockets.devchain")


def _shorten(record: logging.LogRecord) -> bool:
    """Log a client that does not speak WebSocket in one line, without a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, InvalidMessage | ConnectionClosed):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = "closed a connection that does not speak WebSocket: %.200r"
        record.args = (str(error.__cause__ or error),)
        record.exc_info = None
        return True
    # Any other handshake that fails was answered in HTTP and logged with its status.
    return not isinstance(error, InvalidHandshake)


_connection_logger.addFilter(_shorten)


def read_wall_clock() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class DevChain:
    """A running development chain. Use :meth:`open`."""

    def __init__(self, producer: BlockProducer, host: str) -> None:
        self._producer = producer
        self._host = host
        self._connections = 0
        self.port = 0
        """The bound port."""

    @property
    def chain(self) -> Chain:
        return self._producer.chain

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"ws://{host}:{self.port}"

    def build(self, count: int = 1) -> Block:
        """Build blocks at once; return the last."""
        return self._producer.build(count)

    def set_mode(self, mode: BlockMode, block_seconds: float | None = None) -> None:
        """Change what makes a block."""
        self._producer.set_mode(mode, block_seconds or self._producer.block_seconds)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: DevChainConfig,
        *,
        now_ms: Callable[[], int] = read_wall_clock,
        follow_replay: FollowReplay | None = None,
    ) -> AsyncIterator[DevChain]:
        """Serve until the block ends. Raises DevchainUnusable for an unusable port or database."""
        store = None if config.database is None else BlockStore(config.database)
        with closing(store) if store is not None else nullcontext():
            load_verifier()
            chain = load_chain(config, store, follow_replay=follow_replay)
            producer = BlockProducer(chain, now_ms, config.mode, config.block_seconds, store)
            devchain = cls(producer, config.host)
            async with asyncio.TaskGroup() as tasks, devchain._listen(config):
                building = tasks.create_task(producer.run())
                try:
                    yield devchain
                finally:
                    building.cancel()

    @asynccontextmanager
    async def _listen(self, config: DevChainConfig) -> AsyncIterator[None]:
        try:
            server = await serve(
                self._converse,
                config.host,
                config.port,
                compression=None,
                max_size=MAX_MESSAGE_SIZE,
                close_timeout=_CLOSE_TIMEOUT_S,
                logger=_connection_logger,
            )
        except OSError as error:
            raise DevchainUnusable(
                f"the chain cannot listen on {config.host}:{config.port}: {error.strerror}",
                "stop what uses the port or choose another with --port",
            ) from error
        async with server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield

    async def _converse(self, connection: ServerConnection) -> None:
        if self._connections >= MAX_CONNECTIONS:
            await connection.close(CLOSE_TRY_LATER, "too many connections")
            return
        self._connections += 1
        client = RpcConnection(self._producer, may_steer=_may_steer(connection))
        self._producer.listeners.add(client.on_block)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(_send_all(connection, client))
                async for message in connection:
                    client.receive(message)
                sending.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self._producer.listeners.discard(client.on_block)
            self._connections -= 1


def _may_steer(connection: ServerConnection) -> bool:
    """Whether a client may make blocks: a program, or a page that this machine serves itself.

    A browser lets any page that its user visits connect to this machine, and names the page's
    origin. Reading and submitting stay open: the polkadot.js Apps page is such a page.
    """
    request = connection.request
    origins = [] if request is None else request.headers.get_all("Origin")
    return all(_is_loopback(origin) for origin in origins)


def _is_loopback(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def _send_all(connection: ServerConnection, client: RpcConnection) -> None:
    """Send the queued messages; close the connection when the client reads too slowly."""
    while not client.is_too_slow:
        await connection.send(await client.outbox.get())
    await connection.close(CLOSE_TOO_SLOW, "the client reads too slowly")


def load_chain(
    config: DevChainConfig, store: BlockStore | None, *, follow_replay: FollowReplay | None = None
) -> Chain:
    """Make a fresh chain, or the stored one again. Raises DevchainUnusable if it is another."""
    seed = os.urandom(_SEED_SIZE) if config.seed is None else config.seed
    if store is None:
        return Chain(config.seeded_ledger(seed), finality_lag=config.finality_lag)
    rules = describe_rules(config.ledger)
    if store.remember("rules", rules) != rules:
        raise DevchainUnusable(
            "the chain database was made with other rules",
            "start with the same epoch length and activation, or choose another file",
        )
    seed = bytes.fromhex(store.remember("seed", seed.hex()))
    chain = Chain(config.seeded_ledger(seed), finality_lag=config.finality_lag)
    try:
        with ExitStack() as stack:
            step: Callable[[int], None] | None = None
            if follow_replay is not None and (count := store.count()):
                step = stack.enter_context(follow_replay(count))
            for block_hash, extrinsics in store.blocks():
                chain.replay(extrinsics, block_hash)
                if step is not None:
                    step(1)
    except ForeignBlock as error:
        raise DevchainUnusable(
            f"the chain database cannot be used: {error}", "choose another file"
        ) from error
    return chain
