"""One part of a route, as it is planned, dialled and written into a request."""

from __future__ import annotations

from dataclasses import dataclass

from keys.peer import PeerId
from mesh.model.config import LayerSpan


@dataclass(frozen=True, slots=True)
class Hop:
    """A peer, and the layers that it runs for one session."""

    peer_id: PeerId
    span: LayerSpan


Route = tuple[Hop, ...]
"""The hops of a session in the order of their layers."""
