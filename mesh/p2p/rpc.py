"""Signed calls and signed streams over any byte channel.

Theory of operation
===================

hivemind's daemon and the in-memory network differ only in how they make a channel. The protocol's
two sides are ``rpc_client`` and ``rpc_server``, an end of a stream is ``rpc_stream``; its bytes are
in ``rpc_wire``, its limits in ``rpc_guard``.

**Opening.** Every channel serves one request. The client sends an *opening* of fixed size: who asks
whom, which method, when, with which nonce, signed by the client. For a call it also binds the hash
of the payload, for a stream the client's X25519 key of this stream. The server checks it, the
cheap checks first: rate, method, admission policy, names, network, time, signature, nonce. It
answers with an *answer* of fixed size, signed over the hash of the opening. A refusal is an answer
too, with a reason and a detail. A stranger who is refused too often for what no honest peer does is
dropped: its channels are closed unread for a while (``offenders``).

**A call** sends its payload with the opening, and gets a reply whose hash the answer binds. Then
the channel is closed.

**A stream** derives one key for each direction from the two X25519 keys and the signed handshake.
From then on frames go both ways. Each has a header (size, counter, kind), the payload, and a tag by
the key of its direction, so that no frame can be changed, repeated, left out or moved. Signing each
frame would cost more than the hop. The last frame of a direction is a signature over all its tags.

::

    open --finish()--> we sent our last frame --their last frame--> closed
      |                                                               ^
      +--their last frame--> they finished ------finish()-------------+
      +--anything wrong, abort(), idle too long--> broken

**An early stream** saves the round trip of the handshake. The client sends frames right behind the
opening, under a key that it and the server's identity share; a copied opening is refused, with the
frames behind it. The first ``receive`` reads the answer, and raises what ``open_stream`` would have
raised. A server that refuses reads on for a while, so that the refusal arrives.

**Reading.** ``receive_now`` takes a frame if it has arrived whole, ``receive`` waits for one, and
``watch`` calls back in the turn of the event loop in which bytes arrive. Reading belongs to the
event loop. A header is judged before anything is allocated for its payload. A cancelled ``receive``
loses nothing.

**Writing.** ``send`` waits while the peer reads nothing. ``send_now`` waits for nothing and may be
called from any thread: the compute thread sends hidden states and tokens itself. A lock keeps
sealing and sending in one order. What a slow peer does not read is bounded by the channel, which
drops a peer that lets too much wait.

**Ending.** A handler that returns sends the last frame, then lingers until the peer's last frame
has arrived: closing a connection over unread bytes resets it, and our last frames would be lost.
``abort`` drops everything at once. One lazy timer for each stream breaks it when no frame passes in
either direction for ``idle_timeout_s``.

**What can fail.** The client gets a PeerError of the kind that says whose fault it is: PeerTimeout,
PeerUnreachable (the channel broke before the answer), PeerRefusal (the server's reason), or
PeerMisbehaved (what no honest server sends). After the handshake everything is StreamBroken;
StreamClosed is the peer's signed end. A server never raises for what a peer does: it refuses, or
drops the channel and logs. A handler with a defect ends its own channel only: a call is refused
with INTERNAL, a stream is dropped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from keys.peer import PeerKey
from mesh.p2p.rpc_guard import RpcLimits
from mesh.p2p.rpc_wire import NO_NETWORK, RandomBytes


@dataclass(slots=True)
class RpcContext:
    """What both sides of signed RPC need to know about their own node.

    ``clock`` returns seconds since 1970. ``network_id`` may be set later by a client that
    learns it from its first peer.
    """

    key: PeerKey
    network_id: bytes = NO_NETWORK
    limits: RpcLimits = field(default_factory=RpcLimits)
    clock: Callable[[], float] = time.time
    random_bytes: RandomBytes = secrets.token_bytes

    def now_ms(self) -> int:
        return int(self.clock() * 1000)
