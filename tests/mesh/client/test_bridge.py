"""A resource in another thread's event loop: entered, used, interrupted and left."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import asynccontextmanager

import pytest

from mesh.client.bridge import LoopBridge, LoopClosed, LoopThread


class Resource:
    def __init__(self):
        self.events: list[str] = []

    @asynccontextmanager
    async def open(self):
        self.events.append("entered")
        try:
            yield "resource"
        finally:
            # Leaving takes a few turns of the loop, as a daemon's end does.
            await asyncio.sleep(0.01)
            self.events.append("left")


def is_alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_resource_is_left_once_and_its_thread_ends():
    resource, thread = Resource(), LoopThread("once")
    found, bridge = thread.open(resource.open)
    assert found == "resource"
    assert bridge.run(asyncio.sleep(0, "done")) == "done"
    thread.close()
    thread.close()
    assert resource.events == ["entered", "left"]
    assert not is_alive("once")
    with pytest.raises(LoopClosed):
        bridge.run(asyncio.sleep(0))
    bridge.post(lambda: asyncio.sleep(0))


def test_failure_to_enter_is_raised_here():
    @asynccontextmanager
    async def fail():
        raise ConnectionError("nobody there")
        yield

    thread = LoopThread("failing")
    with pytest.raises(ConnectionError, match="nobody there"):
        thread.open(fail)
    assert not is_alive("failing")


def test_work_in_flight_fails_when_the_loop_ends():
    thread = LoopThread("in flight")
    _, bridge = thread.open(Resource().open)
    failures, is_running = [], threading.Event()

    async def work() -> None:
        is_running.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            bridge.run(work())
        except LoopClosed as error:
            failures.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert is_running.wait(5)
    thread.close()
    waiting.join(5)
    assert failures == ["the client was closed meanwhile"]


def test_work_that_comes_while_the_loop_ends_does_not_wait_for_ever():
    for _ in range(20):
        thread = LoopThread("ending")
        _, bridge = thread.open(Resource().open)
        ending = threading.Thread(target=thread.close)
        ending.start()
        with contextlib.suppress(LoopClosed):
            while True:
                bridge.run(asyncio.sleep(0))
        ending.join(5)
        assert not ending.is_alive()


def test_errors_of_the_work_are_raised_here():
    async def fail() -> None:
        raise KeyError("here")

    thread = LoopThread("errors")
    _, bridge = thread.open(Resource().open)
    with pytest.raises(KeyError, match="here"):
        bridge.run(fail())
    thread.close()


async def test_loop_does_not_wait_for_itself():
    with pytest.raises(RuntimeError, match="wait for itself"):
        LoopBridge(asyncio.get_running_loop()).run(asyncio.sleep(0))
