"""The present state, and the readers who follow it: each has a queue that cannot grow.

A reader who does not keep up loses its queue and is told to read the snapshot again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from subnet.monitor.documents import Delta, EpochChanged, Head, NodeRow, Snapshot

MAX_SUBSCRIBERS = 64
MAX_QUEUED = 16


@dataclass(frozen=True, slots=True)
class HubEvent:
    """One server-sent event: its name and its JSON."""

    name: str
    data: str


RESYNC = HubEvent("resync", "{}")
"""The reader missed something: it reads the snapshot again."""
CLOSED = HubEvent("closed", "{}")
"""The server stops. It is the last event."""


class Subscription:
    """One reader's queue."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[HubEvent] = asyncio.Queue(maxsize=MAX_QUEUED)

    def put(self, event: HubEvent) -> None:
        """Queue an event; a full queue is emptied, and says so."""
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            event = CLOSED if event is CLOSED else RESYNC
        self._queue.put_nowait(event)

    async def get(self) -> HubEvent:
        """Return the next event."""
        return await self._queue.get()


class Hub:
    """Keeps the newest snapshot and tells subscribers what changes."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._rows: Mapping[str, NodeRow] = {}
        self._subscriptions: set[Subscription] = set()
        self._is_closed = False
        self.results_revision = 0
        """Grows with every change of the history."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest state; None before the first."""
        return self._snapshot

    @property
    def revision(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.revision

    def publish(self, head: Head, rows: Mapping[str, NodeRow]) -> None:
        """Make this the state; nothing happens if it equals the last one."""
        before, old = self._snapshot, self._rows
        changed = tuple(row for key, row in rows.items() if old.get(key) != row)
        removed = tuple(key for key in old if key not in rows)
        if before is not None and before.head == head and not changed and not removed:
            return
        revision = self.revision + 1
        self._snapshot = Snapshot(revision=revision, head=head, nodes=tuple(rows.values()))
        self._rows = dict(rows)
        if before is not None and self._subscriptions:
            delta = Delta(
                base=before.revision,
                revision=revision,
                head=head,
                changed=changed,
                removed=removed,
            )
            self._tell(HubEvent("delta", delta.model_dump_json()))
        elif self._subscriptions:
            self._tell(RESYNC)

    def note_epoch(self, epoch: int, *, has_results: bool) -> None:
        """Tell that an epoch's record has changed: records alone, or scores and proposals too."""
        self.results_revision += has_results
        changed = EpochChanged(epoch=epoch, has_results=has_results)
        self._tell(HubEvent("epoch", changed.model_dump_json()))

    def close(self) -> None:
        """End every subscription."""
        self._is_closed = True
        self._tell(CLOSED)

    @property
    def is_full(self) -> bool:
        """Whether MAX_SUBSCRIBERS follow; polling the snapshot still works."""
        return len(self._subscriptions) >= MAX_SUBSCRIBERS

    @contextmanager
    def attach(self, subscription: Subscription) -> Iterator[None]:
        """Feed a subscription while the block runs."""
        self._subscriptions.add(subscription)
        if self._is_closed:
            subscription.put(CLOSED)
        try:
            yield
        finally:
            self._subscriptions.discard(subscription)

    def _tell(self, event: HubEvent) -> None:
        for subscription in self._subscriptions:
            subscription.put(event)
