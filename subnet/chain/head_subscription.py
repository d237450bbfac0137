"""A subscription to new heads: one thread that listens and wakes the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
MAX_FRAME_BYTES = 1 << 20
HASH_SIZE = 32
MAX_LOGS = 64


@dataclass(frozen=True, slots=True)
class AnnouncedHead:
    """A block header as an announcement tells it, and the block's hash, 0x and hexadecimal."""

    number: int
    block_hash: str
    parent_hash: str
    logs: tuple[str, ...]


class HeadListener:
    """Wakes its owner whenever the endpoint announces a head. A refused connection is silence.

    The owner reads the announced block over its own connection, so an endpoint that announces too
    much, too little, nonsense or nothing can only cost time.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard = 0
        self._is_over = False
        self._news = asyncio.Event()
        self._newest: Mapping[str, Any] | None = None
        self._socket: Any = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, name="chain-heads", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        if self._socket is not None:
            self._socket.abort()
        thread = self._thread
        if thread is not None:
            await asyncio.to_thread(thread.join, CONNECT_TIMEOUT_S)

    def is_useful_at(self, url: str) -> bool:
        """Whether it may still announce heads of ``url``: False once a live connection ended."""
        # The first announcement comes with the subscription: alone it proves nothing.
        return url == self._url and not (self._is_over and self._heard > 1)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next announcement; False after ``timeout_s`` of silence."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def take_announced(self) -> AnnouncedHead | None:
        """Return the newest block that was announced and not taken yet, if it can be read."""
        newest, self._newest = self._newest, None
        return None if newest is None else parse_announced(newest)

    def _listen(self) -> None:
        from websocket import WebSocketException, create_connection

        from subnet.chain.bounded_socket import BoundedSocket

        try:
            self._socket = create_connection(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                skip_utf8_validation=True,
                class_=BoundedSocket,
            )
            self._socket.max_bytes = MAX_FRAME_BYTES
            if self._stopped:
                return
            # From here on silence is normal: the owner decides how long is too long.
            self._socket.settimeout(None)
            request = {"jsonrpc": "2.0", "id": 1, "method": "chain_subscribeNewHeads", "params": []}
            self._socket.send(json.dumps(request))
            while not self._stopped:
                frame = self._socket.recv()
                if not frame:
                    break
                self._socket.count_anew()
                message = json.loads(frame)
                if "params" in message:
                    self._newest = message["params"]
                    self._heard += 1
                    self._wake()
        except (WebSocketException, OSError, TypeError, ValueError, RecursionError) as error:
            logger.debug("the head subscription to %s ended: %s", self._url, error)
        finally:
            self._is_over = True
            if self._heard > 1:
                self._wake()
            if self._socket is not None:
                self._socket.shutdown()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._news.set)


def parse_announced(parameters: object) -> AnnouncedHead | None:
    """Return the head in the ``params`` of an announcement; None for what is no header.

    The hash is not in it: it is the BLAKE2b-256 hash of the header's SCALE encoding.
    """
    try:
        header = parameters["result"]  # type: ignore[index]
        number, logs = int(header["number"], 16), header["digest"]["logs"]
        hashes = [
            bytes.fromhex(header[name].removeprefix("0x"))
            for name in ("parentHash", "stateRoot", "extrinsicsRoot")
        ]
        if len(logs) > MAX_LOGS or any(len(value) != HASH_SIZE for value in hashes):
            return None
        encoded = (
            hashes[0]
            + _encode_compact(number)
            + hashes[1]
            + hashes[2]
            + _encode_compact(len(logs))
            + b"".join(bytes.fromhex(log.removeprefix("0x")) for log in logs)
        )
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        return None
    block_hash = hashlib.blake2b(encoded, digest_size=HASH_SIZE).hexdigest()
    return AnnouncedHead(number, f"0x{block_hash}", f"0x{hashes[0].hex()}", tuple(logs))


def _encode_compact(value: int) -> bytes:
    """Return a number as SCALE's compact integer; raises OverflowError from 2^30 on."""
    for size, mode in ((1, 0), (2, 1), (4, 2)):
        if 0 <= value < 1 << (8 * size - 2):
            return (value << 2 | mode).to_bytes(size, "little")
    raise OverflowError("a block number has 30 bits here")
