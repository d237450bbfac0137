"""What the processes say is kept, shown, and waited for with a deadline."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from consensus.types import Epoch
from mesh.assets import default_question
from subnet.localnet.display import PlainDisplay
from subnet.localnet.errors import LocalnetFailed
from subnet.localnet.report_collector import ReportCollector

HOPS = [{"blocks": [0, 3]}, {"blocks": [3, 8]}]


@pytest.fixture
def reported() -> ReportCollector:
    return ReportCollector(PlainDisplay(io.StringIO(), results=None))


def answer(reported: ReportCollector, text: str, route: list[dict[str, list[int]]]) -> bool:
    reported.take("client", {"kind": "piece", "text": text})
    reported.take("client", {"kind": "answered", "route": route})
    assert reported.is_answered
    return reported.is_answer_right(default_question().question)


def test_the_known_answer_over_two_hosters_is_right(reported: ReportCollector) -> None:
    assert answer(reported, default_question().answer, HOPS)


def test_another_answer_is_wrong(reported: ReportCollector) -> None:
    assert not answer(reported, "something else", HOPS)


def test_an_answer_of_one_hoster_shows_no_network(reported: ReportCollector) -> None:
    assert not answer(reported, default_question().answer, HOPS[:1])


def test_a_report_is_found_by_who_made_it_and_for_which_epoch(reported: ReportCollector) -> None:
    report = {"epoch": 3, "hosters": []}
    reported.take("hoster-1", {"kind": "scored", "report": json.dumps(report)})
    assert reported.find_report("hoster-1", Epoch(3)) == report
    assert reported.find_report("hoster-1", Epoch(2)) is None
    assert reported.find_report("hoster-2", Epoch(3)) is None


async def test_a_wait_ends_with_the_report_or_with_a_sentence(reported: ReportCollector) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(
            reported.wait_until(lambda: bool(reported.addresses), timeout_s=30, what="start")
        )
        await asyncio.sleep(0)
        reported.take("hoster-1", {"kind": "ready", "addresses": ["/ip4/127.0.0.1/tcp/1"]})
    assert waiting.done()
    with pytest.raises(LocalnetFailed, match="no answer within 0 s"):
        await reported.wait_until(lambda: False, timeout_s=0.01, what="answer")
