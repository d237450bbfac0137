"""The live events: what a delta holds, and readers who do not keep up."""

from __future__ import annotations

import contextlib
import json

from subnet.monitor.hub import CLOSED, MAX_QUEUED, MAX_SUBSCRIBERS, RESYNC, Hub, Subscription
from tests.support.monitor import make_head, make_row


def rows(*found):
    return {row.key: row for row in found}


async def test_a_delta_holds_what_changed_and_what_left():
    hub, reader = Hub(), Subscription()
    one, two, three = make_row(1), make_row(2), make_row(3)
    hub.publish(make_head(), rows(one, two))
    with hub.attach(reader):
        changed = two.model_copy(update={"state": "draining"})
        hub.publish(make_head(offset=10), rows(changed, three))
        event = await reader.get()
    delta = json.loads(event.data)
    assert event.name == "delta"
    assert (delta["base"], delta["revision"]) == (1, 2)
    assert [row["node_id"] for row in delta["changed"]] == [2, 3]
    assert delta["removed"] == [one.key]
    assert delta["head"]["chain"]["offset"] == 10


def test_nothing_is_published_where_nothing_changed():
    hub = Hub()
    hub.publish(make_head(), rows(make_row(1)))
    hub.publish(make_head(), rows(make_row(1)))
    assert hub.revision == 1


async def test_a_reader_who_does_not_keep_up_is_told_to_read_anew():
    hub, slow = Hub(), Subscription()
    hub.publish(make_head(), {})
    with hub.attach(slow):
        for offset in range(10 * MAX_QUEUED):
            hub.publish(make_head(offset=offset % 20, epoch=41 + offset), {})
        events = [await slow.get()]
        while events[-1] is not RESYNC:
            events.append(await slow.get())
    assert len(events) <= MAX_QUEUED
    assert RESYNC in events


async def test_closing_ends_every_subscription_and_later_ones():
    hub, early, late = Hub(), Subscription(), Subscription()
    with hub.attach(early):
        hub.close()
        assert await early.get() is CLOSED
    with hub.attach(late):
        assert await late.get() is CLOSED


def test_the_number_of_readers_is_bounded():
    hub = Hub()
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_SUBSCRIBERS):
            assert not hub.is_full
            stack.enter_context(hub.attach(Subscription()))
        assert hub.is_full
    assert not hub.is_full


async def test_record_news_alone_do_not_change_the_history():
    hub = Hub()
    hub.note_epoch(4, has_results=False)
    assert hub.results_revision == 0
    hub.note_epoch(4, has_results=True)
    assert hub.results_revision == 1
