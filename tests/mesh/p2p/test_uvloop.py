"""The host does not depend on asyncio's own event loop."""

from __future__ import annotations

import uvloop

from keys.peer import PeerId
from tests.support.p2p import open_factory

TIMEOUT_S = 15.0


async def _echo(caller: PeerId, payload: bytes) -> bytes:
    return payload


async def _call_over_a_new_pair() -> bytes:
    async with open_factory("hivemind") as factory:
        server = await factory.open("server")
        client = await factory.open("client")
        server.serve_unary("echo", _echo, max_request_size=16)
        return bytes(await client.call(server.peer_id, "echo", b"x", timeout_s=TIMEOUT_S))


def test_a_host_runs_in_uvloop_too() -> None:
    assert uvloop.run(_call_over_a_new_pair()) == b"x"
