"""Passing the model manifest from node to node: "mesh.manifest" answers with its bytes.

The hash stands on chain, so any peer may be asked: what it answers is checked by the hash alone.
"""

from __future__ import annotations

import hashlib

from keys.peer import PeerId
from mesh.errors import PeerMisbehaved
from mesh.p2p.interface import Host

MANIFEST_METHOD = "mesh.manifest"
FETCH_TIMEOUT_S = 10.0


def serve_manifest(host: Host, body: bytes) -> None:
    """Answer peers of the network with the manifest's bytes."""

    async def answer(caller: PeerId, payload: bytes) -> bytes:
        return body

    host.serve_unary(MANIFEST_METHOD, answer, max_request_size=0)


async def fetch_manifest_body(
    host: Host, peer: PeerId, manifest_hash: bytes, *, timeout_s: float = FETCH_TIMEOUT_S
) -> bytes:
    """Ask a peer for the manifest with this hash. Raises PeerError."""
    body = await host.call(peer, MANIFEST_METHOD, b"", timeout_s=timeout_s)
    if hashlib.sha256(body).digest() != manifest_hash:
        raise PeerMisbehaved(peer, "it answers with another manifest than the chain names")
    return body
