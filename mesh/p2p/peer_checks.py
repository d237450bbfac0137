"""What a node asks its peers about itself: can it be dialled, are its records kept, its clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hivemind.dht.node import DHTNode
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError
from hivemind.proto import dht_pb2
from hivemind.utils.multiaddr import Multiaddr

from keys.peer import PeerId
from mesh.errors import MeshError, PeerUnreachable
from mesh.p2p.addresses import RELAYED, split_peer_address
from mesh.p2p.daemon import Daemon
from mesh.p2p.dht_reader import RecordReader
from mesh.p2p.dial_back import (
    AUTONAT_PROTOCOL,
    DialBack,
    decode_dial_answer,
    encode_dial_request,
)
from mesh.p2p.exchange import ask, blaming
from mesh.p2p.interface import Copies


class PeerChecks:
    """Asks peers over one host's own daemon and DHT node. ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        own: PeerId,
        daemon: Daemon,
        node: DHTNode,
        reader: RecordReader,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._daemon = daemon
        self._node = node
        self._reader = reader
        self._clock = clock

    async def ask_dial_back(
        self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float
    ) -> DialBack:
        """Have ``peer`` dial our ``addresses``; relayed ones are left out.

        Raises PeerUnreachable, PeerTimeout, PeerMisbehaved or DaemonFailed.
        """
        raw = [
            Multiaddr(split_peer_address(text)[0]).to_bytes()
            for text in addresses
            if RELAYED not in text
        ]
        request = encode_dial_request(self._own, raw)
        late = f"no word of a dial within {timeout_s:g} s"
        with blaming(peer, late=late, closed="it does not dial back"):
            async with asyncio.timeout(timeout_s):
                answer = await ask(self._daemon, peer, AUTONAT_PROTOCOL, request)
                return decode_dial_answer(answer)

    async def measure_clock(self, peer: PeerId, *, timeout_s: float) -> float:
        """Return how many seconds ``peer``'s clock is ahead of ours. Raises PeerUnreachable."""
        protocol = self._node.protocol
        request = dht_pb2.PingRequest(peer=protocol.node_info, validate=False)
        asked_at = self._clock()
        try:
            stub = protocol.get_stub(PeerID(peer.to_bytes()))
            response = await stub.rpc_ping(request, timeout=timeout_s)
        except (P2PDaemonError, P2PHandlerError, MeshError, TimeoutError, OSError) as error:
            raise PeerUnreachable(peer, f"it does not tell its time: {error}") from error
        return float(response.dht_time) - (asked_at + self._clock()) / 2

    async def fetch_copies(self, key: bytes, earliest: int) -> Copies:
        """Ask every other replica of ``key`` for a value that expires at ``earliest`` or later."""
        return Copies(*await self._reader.fetch_copies(key, earliest))
