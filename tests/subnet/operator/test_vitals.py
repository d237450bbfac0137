"""What a process measures about itself; what cannot be measured is not known."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import DaemonFailed
from mesh.p2p.interface import PeerCounts
from subnet.operator import vitals
from subnet.operator.vitals import Vitals

TWO = PeerCounts(direct=1, relayed=1)


async def answer_two():
    return TWO


async def fail():
    raise DaemonFailed("p2pd closed its control socket")


async def hang():
    await asyncio.Event().wait()


async def test_peers_and_disk_are_measured_and_news_is_told(tmp_path):
    measured, told = Vitals(tmp_path), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(measured.keep_fresh(answer_two, on_news=told.set))
        await told.wait()
        task.cancel()
    assert measured.peers == TWO and measured.disk_free
    assert not measured.is_disk_low


@pytest.mark.parametrize("count_peers", [fail, hang])
async def test_a_daemon_that_fails_or_hangs_leaves_the_peers_unknown(
    count_peers, tmp_path, monkeypatch
):
    monkeypatch.setattr(vitals, "PEERS_TIMEOUT_S", 0.01)
    measured = Vitals(tmp_path)
    measured.peers = TWO
    await measured.measure(count_peers)
    assert measured.peers is None and measured.disk_free is not None


async def test_a_folder_that_is_gone_has_no_disk(tmp_path):
    measured = Vitals(tmp_path / "gone")
    await measured.measure(answer_two)
    assert measured.disk_free is None and not measured.is_disk_low
