"""Requests and hidden states that once ended the hoster's compute thread, and the node with it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from mesh.inference import batches
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Finish, Token
from mesh.inference.wire import (
    SESSION_METHOD,
    FrameType,
    HiddenRows,
    OpenSession,
    StepFrame,
    decode_error,
    decode_token,
    encode_open,
    encode_step,
    encode_token,
)
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

HIDDEN = 48
NUCLEUS = Sampling(temperature=1.0, top_p=0.5, seed=3)


@contextlib.asynccontextmanager
async def attack(swarm, hoster, *, start, **changes):
    """A stranger's session that names the stranger itself as the range before ``start``."""
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        before = (Hop(key.peer_id, LayerSpan(0, start)),) if start else ()
        request = OpenSession(
            session_id=key.peer_id.public_key[:16],
            route=(*before, Hop(hoster.key.peer_id, LayerSpan(start, 6))),
            sampling=Sampling(),
            token_ids=(1, 2, 3),
            max_new_tokens=4,
            hop_index=len(before),
        )
        stream = await host.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        await stream.send(encode_open(replace(request, **changes)))
        yield stream
        await stream.abort()


async def receive(stream):
    async with asyncio.timeout(10):
        return await stream.receive()


async def check_serves(swarm, hoster, start):
    """An honest session right after the attack still gets its token."""
    async with attack(swarm, hoster, start=start) as stream:
        if start:
            await stream.send(encode_step(make_step(bytes(4 * HIDDEN * 3))))
        assert FrameType((await receive(stream))[0]) is FrameType.TOKEN


def make_step(data):
    return StepFrame(position=0, hidden=HiddenRows(rows=3, dtype="float32", data=data))


@pytest.mark.parametrize(
    "value", [b"\xff\xff\xff\xff", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"], ids=["nan", "inf", "max"]
)
@pytest.mark.parametrize(
    "sampling",
    [NUCLEUS, replace(NUCLEUS, repetition_penalty=100.0), Sampling(repetition_penalty=0.01)],
    ids=["top_p", "penalty", "greedy"],
)
async def test_non_finite_hidden_states_end_their_own_session_only(swarm, sampling, value):
    hoster = await swarm.add_hoster(3, 6)
    async with attack(swarm, hoster, start=3, sampling=sampling) as stream:
        await stream.send(encode_step(make_step(value * HIDDEN * 3)))
        assert FrameType((await receive(stream))[0]) in (FrameType.TOKEN, FrameType.ERROR)
    await check_serves(swarm, hoster, 3)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
async def test_tiny_temperature_takes_the_likeliest_token(swarm, temperature):
    hoster = await swarm.add_hoster(0, 6)
    tokens = []
    for sampling in (Sampling(), Sampling(temperature=temperature, top_p=0.5)):
        async with attack(swarm, hoster, start=0, sampling=sampling) as stream:
            tokens.append(decode_token(await receive(stream)).token_id)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("first_index", [3, 2**32 - 1])
async def test_answer_that_is_further_than_its_tokens_is_refused(swarm, first_index):
    hoster = await swarm.add_hoster(0, 6)
    changes = {"sampling": NUCLEUS, "first_index": first_index}
    async with attack(swarm, hoster, start=0, **changes) as stream:
        assert decode_error(await receive(stream)).reason == "bad_parameter"
    await check_serves(swarm, hoster, 0)


async def test_step_that_cannot_be_computed_ends_its_session_and_not_the_node(swarm, monkeypatch):
    hoster = await swarm.add_hoster(0, 6)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "sample_rows", lambda *_: 1 / 0)
        async with attack(swarm, hoster, start=0) as stream:
            assert decode_error(await receive(stream)).reason == "failed"
    await check_serves(swarm, hoster, 0)


@contextlib.asynccontextmanager
async def betray(swarm, hoster, say, *, stays=True):
    """A session whose last range is a stranger, who says ``say`` once the prompt has come."""
    async with contextlib.AsyncExitStack() as stack:
        key, client_key = swarm.next_key(), swarm.next_key()
        stranger = await swarm.open_host(stack, key)

        async def serve(stream):
            await stream.receive()
            await stream.receive()
            for frame in say:
                await stream.send(frame)
            if stays:
                await stream.receive()

        stranger.serve_stream(SESSION_METHOD, serve)
        client = await swarm.open_host(stack, client_key)
        request = OpenSession(
            session_id=bytes(16),
            route=(Hop(hoster.key.peer_id, LayerSpan(0, 3)), Hop(key.peer_id, LayerSpan(3, 6))),
            sampling=Sampling(),
            token_ids=(1, 2, 3),
            max_new_tokens=4,
        )
        stream = await client.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        await stream.send(encode_open(request))
        yield stream
        await stream.abort()


def make_token(index, token_id=7, finish=Finish.NOT_YET):
    return encode_token(Token(token_id, -1.0, index=index, finish=finish, times_us=(1, 1)))


@pytest.mark.parametrize(
    "second",
    [make_token(1), make_token(0), make_token(2), encode_step(make_step(bytes(4 * HIDDEN * 3)))],
    ids=["before_its_step", "again", "skipped", "not_a_token"],
)
async def test_a_last_range_that_speaks_out_of_turn_is_blamed(swarm, second):
    hoster = await swarm.add_hoster(0, 3)
    async with betray(swarm, hoster, [make_token(0), second]) as stream:
        assert decode_token(await receive(stream)).token_id == 7
        error = decode_error(await receive(stream))
    assert (error.hop_index, error.reason) == (1, "hop_lost")


async def test_an_impossible_token_of_the_last_range_is_blamed_on_it(swarm):
    hoster = await swarm.add_hoster(0, 3)
    async with betray(swarm, hoster, [make_token(0, token_id=1 << 30)]) as stream:
        error = decode_error(await receive(stream))
    assert (error.hop_index, error.reason) == (1, "hop_lost")


async def test_a_last_range_that_leaves_is_blamed_at_once(swarm):
    hoster = await swarm.add_hoster(0, 3)
    async with betray(swarm, hoster, [], stays=False) as stream:
        error = decode_error(await receive(stream))
    assert (error.hop_index, error.reason) == (1, "hop_lost")
