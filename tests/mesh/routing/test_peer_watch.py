"""Who counts as silent: a peer that answered before and misses two pings in a row."""

from __future__ import annotations

import asyncio

import pytest

from keys.peer import PeerKey
from mesh.errors import PeerRefusal, PeerTimeout, PeerUnreachable
from mesh.routing import peer_watch
from mesh.routing.peer_watch import PeerWatch

PEER = PeerKey(b"\1" * 32).peer_id
OTHER = PeerKey(b"\2" * 32).peer_id


class FakeHost:
    """Answers pings as ``answer`` says: None, an error, or a wait without an end."""

    def __init__(self):
        self.peer_id = PeerKey(b"\3" * 32).peer_id
        self.answer = None
        self.pings = []
        self._more = asyncio.Condition()

    async def wait_for_pings(self, count):
        async with self._more:
            await self._more.wait_for(lambda: len(self.pings) >= count)

    async def call(self, peer, method, payload, *, timeout_s):
        async with self._more:
            self.pings.append(peer)
            self._more.notify_all()
        if self.answer is asyncio.sleep:
            await asyncio.sleep(3600)
        if self.answer is not None:
            raise self.answer
        return b""


async def dial(peer):
    pass


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    for name, seconds in (("PING_AFTER_S", 0.02), ("PING_S", 0.05), ("PERIOD_S", 0.02)):
        monkeypatch.setattr(peer_watch, name, seconds)


@pytest.fixture
async def host():
    return FakeHost()


@pytest.fixture
async def watch(host):
    watch = PeerWatch(host, dial)
    yield watch
    await watch.close()


async def wait_for_silence(watch, *, seconds=5.0, misses=2):
    """Return the peer that falls silent. Raises TimeoutError."""
    found = asyncio.get_running_loop().create_future()

    def note(peer):
        if not found.done():
            found.set_result(peer)

    with watch.watch([PEER], note, misses=misses):
        async with asyncio.timeout(seconds):
            return await found


@pytest.mark.parametrize(
    "answer", [asyncio.sleep, PeerTimeout(PEER, "late"), PeerUnreachable(PEER, "gone")]
)
async def test_a_peer_that_answered_and_misses_two_pings_is_silent_until_it_answers(
    host, watch, answer
):
    await watch.check([PEER])
    assert watch.list_silent() == set()
    host.answer = answer
    assert await wait_for_silence(watch) == PEER
    assert watch.list_silent() == {PEER}
    host.answer = None
    await watch.check([PEER])
    assert watch.list_silent() == set()


async def test_a_peer_that_never_answered_is_not_called_silent(host, watch):
    host.answer = PeerUnreachable(PEER, "behind a router")
    with pytest.raises(TimeoutError):
        await wait_for_silence(watch, seconds=0.5)
    assert len(host.pings) > 2
    assert watch.list_silent() == set()


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_suspect_is_silent_after_one_missed_ping_and_not_if_it_answers(
    host, watch, is_gone
):
    host.answer = PeerUnreachable(PEER, "gone") if is_gone else None
    watch.suspect([PEER])
    await host.wait_for_pings(1)
    await asyncio.sleep(0)
    assert watch.list_silent() == ({PEER} if is_gone else set())


async def test_a_suspect_is_pinged_though_a_ping_was_just_answered(host, watch, monkeypatch):
    monkeypatch.setattr(peer_watch, "PERIOD_S", 0.3)
    with watch.watch([PEER], lambda peer: None):
        await host.wait_for_pings(1)
        await asyncio.sleep(0)
        host.answer = PeerUnreachable(PEER, "gone")
        watch.suspect([PEER])
    await host.wait_for_pings(2)
    await asyncio.sleep(0)
    assert watch.list_silent() == {PEER}


async def test_a_refusal_is_an_answer(host, watch):
    host.answer = PeerRefusal(PEER, "busy")
    with pytest.raises(TimeoutError):
        await wait_for_silence(watch, seconds=0.3)


async def test_one_missed_ping_is_no_silence(host, watch):
    await watch.check([PEER])
    host.answer = PeerTimeout(PEER, "late")
    heard = []
    with watch.watch([PEER], heard.append):
        await host.wait_for_pings(2)
        host.answer = None
        await asyncio.sleep(0.2)
    assert heard == []


async def test_a_wait_that_ends_soon_sends_no_ping(host, watch, monkeypatch):
    monkeypatch.setattr(peer_watch, "PING_AFTER_S", 0.2)
    for _ in range(100):
        with watch.watch([PEER], lambda peer: None):
            await asyncio.sleep(0)
    assert host.pings == []


async def test_waits_for_one_peer_share_its_pings_and_end_with_the_last(host, watch):
    watch.introduce([PEER])
    with watch.watch([PEER], lambda peer: None):
        with watch.watch([PEER], lambda peer: None):
            await asyncio.sleep(0.3)
        count = len(host.pings)
        assert count <= 0.3 / peer_watch.PERIOD_S + 2
    await asyncio.sleep(0.1)
    count = len(host.pings)
    await asyncio.sleep(0.1)
    assert len(host.pings) == count


async def test_a_round_pings_so_many_peers_and_the_next_one_the_others(host, watch, monkeypatch):
    monkeypatch.setattr(peer_watch, "MAX_CHECKED", 1)
    await watch.check([PEER, OTHER])
    assert len(host.pings) == 1
    await watch.check([PEER, OTHER])
    assert set(host.pings) == {PEER, OTHER}


async def test_what_is_known_of_peers_is_bounded(host, watch, monkeypatch):
    monkeypatch.setattr(peer_watch, "MAX_PEERS", 3)
    for number in range(10, 20):
        await watch.check([PeerKey(bytes([number]) * 32).peer_id])
    assert len(watch._peers) <= 3
