"""An answer to a call that has just been given up does not end hivemind's reader."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from hivemind.p2p.p2p_daemon_bindings.control import ControlClient
from hivemind.proto import p2pd_pb2

from mesh.p2p.dht_binding import OpenCalls


def make_answer(call_id, *, text=b"answer", is_error=False):
    response = p2pd_pb2.CallUnaryResponse(**{"error" if is_error else "response": text})
    body = p2pd_pb2.PersistentConnectionResponse(
        callId=call_id.bytes, callUnaryResponse=response
    ).SerializeToString()
    assert len(body) < 128  # A size of one byte.
    return bytes([len(body)]) + body


async def test_a_late_answer_ends_no_reader():
    control = ControlClient(None, _initialized_with_create=True)
    control._pending_calls = OpenCalls()
    late, failed, alive = uuid4(), uuid4(), uuid4()
    futures = {call_id: asyncio.Future() for call_id in (late, failed, alive)}
    control._pending_calls |= futures
    # As a timeout does, a moment before the call is taken out.
    futures[late].cancel()
    futures[failed].cancel()
    reader = asyncio.StreamReader()
    for call_id, is_error in ((late, False), (failed, True), (alive, False)):
        reader.feed_data(make_answer(call_id, is_error=is_error))
    reader.feed_eof()
    await control._read_from_persistent_conn(reader)
    assert await futures[alive] == b"answer"


def test_a_call_is_there_until_it_is_answered_or_taken_out():
    calls, call_id = OpenCalls(), uuid4()
    loop = asyncio.new_event_loop()
    assert call_id not in calls
    calls[call_id] = loop.create_future()
    assert call_id in calls
    calls[call_id].set_result(b"")
    assert call_id not in calls
    calls.pop(call_id)
    loop.close()
