"""Bytes that this process gave to its transport and took from it.

Counted are the payloads of the DHT and the bytes of RPC channels, as this process hands them to
p2pd or gets them from it. Not counted is what p2pd adds or sends by itself: encryption, framing,
protocol negotiation, opening connections, identify, its own DHT, and what it relays for others.
Calls of a node to itself do not leave the process and are not counted.
"""

from __future__ import annotations

import threading


class ByteCounter:
    """Bytes of one kind in both directions; any thread may add."""

    __slots__ = ("_lock", "_received", "_sent")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._sent = 0

    @property
    def received(self) -> int:
        return self._received

    @property
    def sent(self) -> int:
        return self._sent

    def add_received(self, size: int) -> None:
        with self._lock:
            self._received += size

    def add_sent(self, size: int) -> None:
        with self._lock:
            self._sent += size


class Traffic:
    """All bytes of one host since it was opened. The numbers only grow.

    ``calls`` are signed calls and streams; ``records`` is the record store: reading, storing and
    keeping replicas for others.
    """

    __slots__ = ("calls", "records")

    def __init__(self) -> None:
        self.calls = ByteCounter()
        self.records = ByteCounter()

    @property
    def received(self) -> int:
        """Bytes received in all."""
        return self.calls.received + self.records.received

    @property
    def sent(self) -> int:
        """Bytes sent in all."""
        return self.calls.sent + self.records.sent
