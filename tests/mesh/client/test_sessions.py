"""What a hoster refuses, frame by frame, and that a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from mesh.errors import StreamBroken
from mesh.inference.sampling import Sampling
from mesh.inference.wire import (
    LOOP_METHOD,
    SESSION_METHOD,
    FrameType,
    HiddenRows,
    OpenSession,
    StepFrame,
    decode_error,
    decode_token,
    encode_bind,
    encode_open,
    encode_step,
    encode_token,
)
from mesh.model.config import LayerSpan
from mesh.routing.hop import Hop

ROW = bytes(48 * 4)


def request_for(hosters, **changes):
    """A valid request over all hosters."""
    spans = {1: [(0, 6)], 2: [(0, 3), (3, 6)], 3: [(0, 2), (2, 4), (4, 6)]}[len(hosters)]
    request = OpenSession(
        session_id=b"s" * 16,
        route=tuple(
            Hop(h.key.peer_id, LayerSpan(*span)) for h, span in zip(hosters, spans, strict=True)
        ),
        sampling=Sampling(),
        token_ids=(1, 2, 3),
        max_new_tokens=4,
    )
    return replace(request, **changes)


@contextlib.asynccontextmanager
async def open_raw(swarm, hoster, method=SESSION_METHOD):
    """A stream of a caller that says what it likes."""
    async with contextlib.AsyncExitStack() as stack:
        host = await swarm.open_host(stack, swarm.next_key())
        stream = await host.open_stream(hoster.key.peer_id, method, timeout_s=5)
        yield stream
        await stream.abort()


async def refusal_of(swarm, hoster, frame):
    async with open_raw(swarm, hoster) as stream:
        await stream.send(frame)
        async with asyncio.timeout(5):
            return decode_error(await stream.receive())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_ids": (1,) * 253}, "context_overflow"),
        ({"max_new_tokens": 2**32 - 1}, "context_overflow"),
        ({"max_new_tokens": 0, "token_ids": (1,)}, "bad_parameter"),
        ({"token_ids": (1, 259)}, "token_out_of_range"),
        ({"sampling": Sampling(temperature=float("nan"))}, "bad_parameter"),
        ({"sampling": Sampling(top_p=-1.0)}, "bad_parameter"),
    ],
    ids=[
        "prompt longer than the context",
        "huge",
        "nothing to score",
        "token id out of range",
        "nan",
        "top_p",
    ],
)
async def test_impossible_requests_are_refused_with_a_reason(swarm, changes, reason):
    hoster = await swarm.add_hoster(0, 6)
    error = await refusal_of(swarm, hoster, encode_open(request_for([hoster], **changes)))
    assert error.reason == reason
    assert hoster.engine.session_count == 0


async def test_wrong_range_wrong_peer_and_wrong_caller_are_refused(swarm):
    first = await swarm.add_hoster(0, 3)
    last = await swarm.add_hoster(3, 6)
    request = request_for([first, last])
    beyond = (
        replace(request.route[0], span=LayerSpan(0, 4)),
        replace(request.route[1], span=LayerSpan(4, 6)),
    )
    error = await refusal_of(swarm, first, encode_open(replace(request, route=beyond)))
    assert error.reason == "wrong_range"
    short = (request.route[0],)
    assert (
        await refusal_of(swarm, first, encode_open(replace(request, route=short)))
    ).reason == "wrong_range"
    assert (await refusal_of(swarm, last, encode_open(request))).reason == "malformed"
    as_second = replace(request, hop_index=1)
    assert (await refusal_of(swarm, last, encode_open(as_second))).reason == "malformed"


async def test_garbage_and_other_frames_are_refused(swarm):
    hoster = await swarm.add_hoster(0, 6)
    for frame in (
        b"",
        b"\0",
        b"\xff" * 100,
        encode_bind(b"s" * 16),
        encode_open(request_for([hoster]))[:-1],
    ):
        assert (await refusal_of(swarm, hoster, frame)).reason == "malformed"


async def test_unknown_session_is_refused(swarm):
    """Tokens for a session that does not run here, or from a peer that is not its last."""
    hoster = await swarm.add_hoster(0, 6)
    async with open_raw(swarm, hoster, LOOP_METHOD) as stream:
        await stream.send(encode_bind(b"x" * 16))
        assert decode_error(await stream.receive()).reason == "unknown_session"


async def test_foreign_peer_cannot_feed_tokens_into_a_session(swarm):
    hosters = [await swarm.add_hoster(*span) for span in ((0, 2), (2, 4), (4, 6))]
    async with open_raw(swarm, hosters[0]) as client:
        request = request_for(hosters, max_new_tokens=200, sampling=Sampling(stop_token_ids=(258,)))
        await client.send(encode_open(request))
        token = decode_token(await client.receive())
        async with open_raw(swarm, hosters[0], LOOP_METHOD) as thief:
            await thief.send(encode_bind(request.session_id))
            await thief.send(encode_token(replace(token, index=1, token_id=7)))
            assert decode_error(await thief.receive()).reason == "unknown_session"
        assert decode_token(await client.receive()).index == 1


@contextlib.asynccontextmanager
async def second_range(swarm, hoster):
    """A caller that plays the first range towards a real last one."""
    async with contextlib.AsyncExitStack() as stack:
        key = swarm.next_key()
        host = await swarm.open_host(stack, key)
        stream = await host.open_stream(hoster.key.peer_id, SESSION_METHOD, timeout_s=5)
        request = OpenSession(
            session_id=b"s" * 16,
            route=(Hop(key.peer_id, LayerSpan(0, 3)), Hop(hoster.key.peer_id, LayerSpan(3, 6))),
            sampling=Sampling(),
            token_ids=(1, 2, 3),
            max_new_tokens=4,
            hop_index=1,
        )
        await stream.send(encode_open(request))
        yield stream
        await stream.abort()


def step(position=0, **changes):
    rows = HiddenRows(rows=1, dtype="float32", data=ROW)
    return encode_step(StepFrame(position, rows._replace(**changes)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (step(position=1), "wrong_position"),
        (step(rows=2), "wrong_shape"),
        (step(data=ROW + b"\0"), "wrong_shape"),
        (step(dtype="float16"), "wrong_shape"),
        (step()[:7] + b"\x07" + step()[8:], "wrong_dtype"),
        (step(rows=100, data=memoryview(ROW * 100)), "context_overflow"),
        (b"nonsense", "malformed"),
    ],
)
async def test_wrong_hidden_states_are_refused_and_the_cache_is_freed(swarm, frame, reason):
    hoster = await swarm.add_hoster(3, 6)
    async with second_range(swarm, hoster) as stream:
        await stream.send(frame)
        async with asyncio.timeout(5):
            assert decode_error(await stream.receive()).reason == reason
            with pytest.raises(StreamBroken):
                await stream.receive()
    assert hoster.engine.session_count == 0


async def test_not_a_number_ends_in_an_answer_not_in_a_crash(swarm):
    hoster = await swarm.add_hoster(3, 6)
    async with second_range(swarm, hoster) as stream:
        nans = memoryview(b"\xff" * (48 * 4 * 3))
        await stream.send(step(rows=3, data=nans))
        frame = await stream.receive()
        assert FrameType(frame[0]) in (FrameType.TOKEN, FrameType.ERROR)


async def test_client_that_talks_on_loses_its_session(swarm):
    hoster = await swarm.add_hoster(0, 6)
    async with open_raw(swarm, hoster) as stream:
        await stream.send(encode_open(request_for([hoster], max_new_tokens=250)))
        await stream.send(b"more")
        async with asyncio.timeout(5):
            while (frame := await stream.receive())[0] == FrameType.TOKEN:
                pass
        assert decode_error(frame).reason == "malformed"
