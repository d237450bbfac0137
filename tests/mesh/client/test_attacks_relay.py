"""A box without weights that has an honest hoster compute its challenge, over every path."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    HIDDEN_METHOD,
    DriveSession,
    encode_drive,
    encode_driven_step,
)
from mesh.inference.sampling import Sampling
from mesh.inference.wire import (
    SESSION_METHOD,
    FrameType,
    HiddenRows,
    OpenSession,
    StepFrame,
    decode_error,
    encode_open,
    encode_step,
)
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

HIDDEN = 48
ROWS = 16
CHALLENGE = (np.random.default_rng(9).integers(-127, 128, (ROWS, HIDDEN)) / 64).astype(np.float32)


def make_frames(method, route):
    """The request and the step of one kind of session, as the hop before the hoster sends them."""
    rows = HiddenRows(ROWS, "float32", CHALLENGE.tobytes())
    step = StepFrame(0, rows)
    if method in (DRIVE_METHOD, HIDDEN_METHOD):
        request = DriveSession(b"s" * 16, route, ROWS, hop_index=1)
        return encode_drive(request), encode_driven_step(step, 1)
    request = OpenSession(
        b"s" * 16, route, Sampling(), tuple(range(ROWS)), max_new_tokens=1, hop_index=1
    )
    return encode_open(request), encode_step(step)


@contextlib.asynccontextmanager
async def relay(swarm, hoster, method, *, end):
    """The cheat names itself before the hoster, and another of its identities after it."""
    async with contextlib.AsyncExitStack() as stack:
        key, other = swarm.next_key(), swarm.next_key()
        host = await swarm.open_host(stack, key)
        accomplice = await swarm.open_host(stack, other)
        received = asyncio.Queue()

        async def take(stream):
            await stream.receive()
            while True:
                await received.put(await stream.receive())

        accomplice.serve_stream(method, take)
        route = [Hop(key.peer_id, LayerSpan(0, 3)), Hop(hoster.key.peer_id, LayerSpan(3, end))]
        if end < 6:
            route.append(Hop(other.peer_id, LayerSpan(end, 6)))
        stream = await host.open_stream(hoster.key.peer_id, method, timeout_s=5)
        for frame in make_frames(method, tuple(route)):
            await stream.send(frame)
        yield stream, received
        await stream.abort()


@pytest.mark.parametrize("end", [4, 6], ids=["to an accomplice", "to itself"])
@pytest.mark.parametrize("method", [SESSION_METHOD, DRIVE_METHOD, HIDDEN_METHOD])
async def test_relay_is_refused_by_name_on_every_path(swarm, method, end):
    hoster = await swarm.add_hoster(3, 6)
    hoster.engine.guard.open(b"now", lambda layer: CHALLENGE)
    async with relay(swarm, hoster, method, end=end) as (stream, received), asyncio.timeout(5):
        error = decode_error(await stream.receive())
        assert (error.reason, error.hop_index) == ("challenge_relayed", 1)
        assert "block 3" in error.detail
        assert received.empty()
    assert hoster.engine.guard.refused == 1
    assert hoster.engine.session_count == 0


@pytest.mark.parametrize("method", [SESSION_METHOD, DRIVE_METHOD, HIDDEN_METHOD])
async def test_after_the_challenge_the_same_frames_are_computed(swarm, method):
    hoster = await swarm.add_hoster(3, 6)
    hoster.engine.guard.open(b"now", lambda layer: CHALLENGE)
    hoster.engine.guard.close()
    async with relay(swarm, hoster, method, end=4) as (stream, received), asyncio.timeout(5):
        frame = await received.get()
        expected = FrameType.STEP if method == SESSION_METHOD else FrameType.DRIVEN_STEP
        assert frame[0] == expected
