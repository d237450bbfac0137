"""A subscription to new heads: one thread that listens and wakes the event loop."""

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
    """Wakes its owner whenever the endpoint announces a head. A refused connection is silence.

    The owner reads the head itself over its own connection, so an endpoint that announces too
    much, too little or nothing can only cost time.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard = 0
        self._is_over = False
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

    def _listen(self) -> None:
        from websocket import WebSocketException, create_connection

        try:
            self._socket = create_connection(
                self._url, timeout=CONNECT_TIMEOUT_S, skip_utf8_validation=True
            )
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
