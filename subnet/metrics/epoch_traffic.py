"""How many bytes a node received and sent in an epoch, told when the next one begins."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import Epoch
from mesh.p2p.traffic import Traffic


@dataclass(frozen=True, slots=True)
class EpochBytes:
    """Bytes of one whole epoch, as ``Traffic`` counts them."""

    epoch: Epoch
    received: int
    sent: int


class EpochTraffic:
    """Divides a host's traffic by epochs. One that did not begin and end here is not told."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._epoch: Epoch | None = None
        self._is_whole = False
        self._received = self._sent = 0

    def note(self, epoch: Epoch) -> EpochBytes | None:
        """Note that a head stands in ``epoch``; return the bytes of the one that has ended."""
        before = self._epoch
        if before is not None and epoch <= before:
            return None
        received, sent = self._traffic.received, self._traffic.sent
        is_next = before is not None and epoch == before + 1
        ended = None
        if before is not None and is_next and self._is_whole:
            ended = EpochBytes(before, received - self._received, sent - self._sent)
        self._epoch, self._is_whole = epoch, is_next
        self._received, self._sent = received, sent
        return ended
