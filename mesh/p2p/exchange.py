"""One question to a peer over one of libp2p's small protocols; failures are blamed on that peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from keys.peer import PeerId
from mesh.errors import PeerMisbehaved, PeerTimeout, PeerUnreachable
from mesh.p2p.channel import Channel, ChannelClosed
from mesh.p2p.delimited import receive_message


class ChannelOpener(Protocol):
    """Opens channels to peers; satisfied by Daemon."""

    async def open_channel(self, peer: PeerId, protocol: str, /) -> Channel: ...


async def ask(opener: ChannelOpener, peer: PeerId, protocol: str, request: bytes) -> bytes:
    """Send a request on a channel of its own, and return the message that answers it.

    Raises ChannelClosed, or ValueError for a message that is too large.
    """
    channel = await opener.open_channel(peer, protocol)
    try:
        await channel.write(request)
        return await receive_message(channel)
    finally:
        channel.close()


@contextmanager
def blaming(peer: PeerId, *, late: str, closed: str) -> Iterator[None]:
    """Turn what a question and its answer's decoder raise into a PeerError of ``peer``.

    ``late`` is the detail of a TimeoutError, ``closed`` of a channel that was closed.
    """
    try:
        yield
    except TimeoutError as error:
        raise PeerTimeout(peer, late) from error
    except ChannelClosed as error:
        raise PeerUnreachable(peer, closed) from error
    except ValueError as error:
        raise PeerMisbehaved(peer, str(error)) from error
