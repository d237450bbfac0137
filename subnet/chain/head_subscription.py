"""Being told of new heads: one thread that listens, while the asker polls when it is silent."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
MAX_FRAME_BYTES = 1 << 20


class HeadListener:
    """Wakes its owner whenever the endpoint announces a head. A broken connection is silence.

    What the head is, the owner asks over its own connection: so a listener that lies, lags or
    dies can only cost time.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._news = asyncio.Event()
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

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next announcement; False after ``timeout_s`` of silence."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def _listen(self) -> None:
        from websocket import WebSocketException, create_connection

        try:
            self._socket = create_connection(self._url, timeout=CONNECT_TIMEOUT_S)
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
                if len(frame) <= MAX_FRAME_BYTES and "params" in json.loads(frame):
                    self._announce()
        except (WebSocketException, OSError, ValueError) as error:
            if not self._stopped:
                logger.info("the head subscription to %s ended: %s", self._url, error)
        finally:
            if self._socket is not None:
                self._socket.close()

    def _announce(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._news.set)
