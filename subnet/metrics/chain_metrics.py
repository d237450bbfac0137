"""What a node and a bootstrap both show: where the chain stands, and how its endpoints do."""

from __future__ import annotations

import time
from collections.abc import Callable

from consensus.phases import Phase, Schedule, get_phase_end, phase_at
from consensus.types import EpochPosition
from mesh.api.checks import HealthCheck
from subnet.chain.endpoints import Endpoints
from subnet.epoch.interfaces import BlockInfo
from subnet.epoch.observer import HeadHandled, HeadSeen, NodeEvent, Unavailable
from subnet.metrics.page import Page
from subnet.operator.status import MAX_HEAD_AGE_BLOCKS


class HeadTracker:
    """Remembers the newest head and its place in the epoch; ``clock`` is seconds since 1970."""

    def __init__(
        self, *, schedule: Schedule, block_time_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._schedule = schedule
        self._block_time_s = block_time_s
        self._clock = clock
        self._head: BlockInfo | None = None
        self._position: EpochPosition | None = None
        self._outages = 0

    def observe(self, event: NodeEvent) -> None:
        """Take note of heads, of where they stand in their epoch, and of outages."""
        match event:
            case HeadSeen(head):
                self._head = head
            case HeadHandled(position, _):
                self.note_position(position)
            case Unavailable("chain"):
                self._outages += 1

    def note_position(self, position: EpochPosition) -> None:
        """Take note of where the head stands in its epoch."""
        self._position = position

    def get_head_age_s(self) -> float | None:
        """Return how old the newest head is by its own timestamp; None before the first."""
        return None if self._head is None else max(0.0, self._clock() - self._head.timestamp_s)

    def check(self) -> HealthCheck:
        """Say whether the head is fresh, as ``mesh status`` judges it."""
        age_s = self.get_head_age_s()
        if age_s is None:
            return HealthCheck("chain", False, "no head was seen yet")
        is_fresh = age_s <= MAX_HEAD_AGE_BLOCKS * self._block_time_s
        return HealthCheck("chain", is_fresh, f"the newest head is {age_s:.0f} s old")

    def fill(self, page: Page) -> None:
        """Put what is known into the page."""
        if self._head is not None:
            page.add("mesh_chain_block_height", self._head.number)
            page.add("mesh_chain_head_age_seconds", self.get_head_age_s())
        page.add("mesh_chain_block_time_seconds", self._block_time_s)
        page.add("mesh_chain_unavailable_total", self._outages)
        position = self._position
        if position is None:
            return
        phase = phase_at(position, self._schedule)
        blocks_left = get_phase_end(phase, self._schedule) - position.offset
        page.add("mesh_epoch", position.epoch)
        page.add_state("mesh_phase", phase.value, [each.value for each in Phase])
        page.add("mesh_phase_deadline_seconds", blocks_left * self._block_time_s)


def fill_endpoints(page: Page, endpoints: Endpoints) -> None:
    """Put how the chain's endpoints do."""
    for endpoint in endpoints.list_health():
        page.add("mesh_chain_endpoint_up", float(endpoint.is_serving), endpoint.name)
        page.add("mesh_chain_endpoint_failures_total", endpoint.failures, endpoint.name)
    page.add_histogram("mesh_chain_call_seconds", endpoints.call_s)
