"""A WebSocket that takes a bounded number of bytes: the library's takes a frame of any length."""

from __future__ import annotations

from typing import Any

from websocket import ABNF, WebSocket, WebSocketPayloadException

MAX_ANSWER_BYTES = 32 << 20
"""For one request. Substrate's ``--rpc-max-response-size`` is 15 MiB unless it is set."""


class BoundedSocket(WebSocket):  # type: ignore[misc]
    """Ends a connection on which more comes than was asked for.

    Counts every byte since the last request was sent, whatever frames and messages it came in:
    what is not the answer is kept by the library until the answer comes.
    """

    max_bytes = MAX_ANSWER_BYTES

    def __init__(self, *args: Any, **options: Any) -> None:
        self._num_bytes = 0
        super().__init__(*args, **options)

    def send(self, payload: bytes | str, opcode: int = ABNF.OPCODE_TEXT) -> int:
        """Send a message; the answer to it may be as long as any."""
        if opcode == ABNF.OPCODE_TEXT:
            self.count_anew()
        return int(super().send(payload, opcode))

    def count_anew(self) -> None:
        """Count from here: what came so far was asked for."""
        self._num_bytes = 0

    def _recv(self, bufsize: int) -> bytes:
        received: bytes = super()._recv(bufsize)
        self._num_bytes += len(received)
        if self._num_bytes > self.max_bytes:
            self.shutdown()
            raise WebSocketPayloadException(f"more than {self.max_bytes} bytes came unasked")
        return received
