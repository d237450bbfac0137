"""What a running node knows of itself for its operator, beside its head: for the status file.

It hears the node's events, asks the chain once an epoch where the node stands and what was paid,
and measures at intervals what the node serves and whom it reaches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus.owed import DUTY_WORDS, DutyNow
from consensus.phases import Schedule, get_phase_end, phase_at
from consensus.types import SubnetId, SubnetNodeId
from consensus.view import EpochStatus
from mesh.p2p.interface import PeerCounts
from mesh.routing.coverage import count_servers
from mesh.routing.directory import KnownServer
from subnet.account.earnings import NOT_LISTED
from subnet.account.earnings_book import EarningsBook
from subnet.account.eligibility import Eligibility
from subnet.account.standing import (
    Standing,
    check_eligibility,
    describe_next_class,
    fetch_standing,
)
from subnet.chain.substrate import SubstrateChain
from subnet.epoch.observer import EpochScored, HeadHandled, NodeEvent
from subnet.errors import ConfigError, UnknownSubnet
from subnet.operator.redaction import redact_urls
from subnet.operator.status import PERIOD_S, DutyLine, EarnedLine, NodeLoad

SHOWN_EPOCHS = 5
SETTLED_BEHIND = 2
"""The newest scored epoch that is settled, counted back from the present one."""
_UNABLE = (EpochStatus.CLOCK_SKEW, EpochStatus.CHAIN_STALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """What the node serves now. ``rows_computed`` only grows."""

    sessions: int | None
    rows_computed: int
    cache_used: int | None
    cache_size: int | None
    peers: PeerCounts | None
    servers: Sequence[KnownServer]


class StatusFacts:
    """Collects the facts of one node. ``unable`` is why it can never propose, if so."""

    def __init__(
        self,
        data_dir: Path,
        *,
        subnet_id: SubnetId,
        node_id: SubnetNodeId,
        schedule: Schedule,
        num_layers: int,
        unable: str | None,
    ) -> None:
        self._subnet_id = subnet_id
        self._node_id = node_id
        self._schedule = schedule
        self._num_layers = num_layers
        self._unable = unable
        self._book = EarningsBook(data_dir, subnet_id, node_id)
        self._standing: Standing | None = None
        self._handled: HeadHandled | None = None
        self._scores: deque[tuple[int, str]] = deque(maxlen=SHOWN_EPOCHS)
        self._endpoint: str | None = None
        self._load = NodeLoad()

    def note(self, event: NodeEvent) -> None:
        """Hear what happened."""
        match event:
            case HeadHandled():
                self._handled = event
            case EpochScored(report):
                score = dict(report.rows).get(self._node_id, 0)
                self._scores.appendleft((int(report.epoch), str(int(score))))

    @property
    def standing(self) -> Standing | None:
        """Where the node stood when the chain was asked last; None if that is not known."""
        return self._standing

    @property
    def eligibility(self) -> Eligibility | None:
        """Whether the node can earn in the next epoch; None while its standing is not known."""
        if self._standing is None:
            return None
        return check_eligibility(self._standing, unable=self._find_unable())

    async def follow(self, chain: SubstrateChain) -> None:
        """Ask the chain once an epoch, and warn of what was lost. Raises ChainUnavailable."""
        self._endpoint = redact_urls(chain.url)
        if self._handled is None:
            return
        epoch = self._handled.position.epoch
        if self._standing is None or self._standing.epoch != epoch:
            try:
                self._standing = await fetch_standing(chain, self._subnet_id, self._node_id)
            except (ConfigError, UnknownSubnet):
                # A node without pay need not be registered, and one that was removed is not.
                self._standing = None
        known = self._book.rows[0].epoch if self._book.rows else None
        if epoch >= SETTLED_BEHIND and (known is None or known < epoch - SETTLED_BEHIND):
            await self._book.follow(chain)

    async def watch_load(self, sample: Callable[[], LoadSample]) -> None:
        """Measure every PERIOD_S until cancelled."""
        before = sample()
        while True:
            await asyncio.sleep(PERIOD_S)
            now = sample()
            self._load = self._compute_load(before, now)
            before = now

    def _compute_load(self, before: LoadSample, now: LoadSample) -> NodeLoad:
        rows = now.rows_computed - before.rows_computed
        hosters = [server for server in now.servers if server.info.takes_sessions]
        spans = [server.info.span for server in hosters if server.info.span is not None]
        return NodeLoad(
            sessions=now.sessions,
            rows_per_s=None if now.sessions is None else rows / PERIOD_S,
            cache_used=now.cache_used,
            cache_size=now.cache_size,
            peers_direct=None if now.peers is None else now.peers.direct,
            peers_relayed=None if now.peers is None else now.peers.relayed,
            servers=len(hosters),
            least_hosters=min(count_servers(spans, num_layers=self._num_layers)),
        )

    def render(self) -> dict[str, Any]:
        """Return the fields of NodeStatus that this class knows."""
        standing, handled, eligibility = self._standing, self._handled, self.eligibility
        facts: dict[str, Any] = {
            "endpoint": self._endpoint,
            "scores": tuple(self._scores),
            "load": self._load,
            "earned": tuple(
                EarnedLine(
                    epoch=row.epoch,
                    paid=str(row.paid),
                    proposing=None if row.proposing is None else str(row.proposing),
                    slashed=str(row.slashed),
                    reason=None if row.paid else row.shortfall or row.unpaid or NOT_LISTED,
                )
                for row in self._book.rows[:SHOWN_EPOCHS]
            ),
        }
        if standing is not None:
            facts |= {
                "standing": describe_next_class(standing),
                "eligibility": str(eligibility),
                "stake": str(standing.stake),
                "reputation": str(standing.reputation),
            }
        if handled is not None:
            position = handled.position
            first = position.block - position.offset
            facts |= {
                "phase_ends": first
                + get_phase_end(phase_at(position, self._schedule), self._schedule),
                "epoch_ends": first + position.length,
                "duties": tuple(_render_duty(duty, first) for duty in handled.duties),
                "stay": handled.stay,
            }
        return facts

    def _find_unable(self) -> str | None:
        if self._unable is None and self._handled is not None and self._handled.status in _UNABLE:
            return self._handled.status.value
        return self._unable


def _render_duty(duty: DutyNow, first_block: int) -> DutyLine:
    word = DUTY_WORDS[duty.duty]
    return DutyLine(duty=word, progress=duty.progress.value, until=first_block + duty.until)
