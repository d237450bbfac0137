"""A text that the client drives through the swarm: it sends token ids and gets logits.

The client keeps the text, so after a lost route it sends the text again over another one. Only
what differs from the text before is sent: the hosters hold the rest in their caches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mesh.client.client import MeshClient
from mesh.client.route_search import RouteSearch, RoutingOptions
from mesh.client.route_session import (
    TOKENS_PER_MISS,
    ClientTimeouts,
    HopFailed,
    blame_peer,
    decode_from,
    open_session,
    receive_frame,
)
from mesh.errors import InvalidRequest
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    DriveSession,
    FeedFrame,
    LogitsFrame,
    decode_logits,
    encode_drive,
    encode_feed,
)
from mesh.inference.refusals import RefusalReason
from mesh.inference.tokens import Trace
from mesh.inference.wire import make_session_id
from mesh.p2p.interface import Stream
from mesh.routing.hop import Route
from mesh.routing.peer_watch import MISSES

Logits = NDArray[np.float32]
"""[rows, vocabulary], or [rows, hidden_size] of hidden states."""

IDLE_S = 60.0
"""Hosters drop a session that idles for twice as long, and would be blamed for it."""


@dataclass(slots=True)
class _Link:
    """An open session on one route, and what its hops hold in their caches."""

    stream: Stream
    route: Route
    capacity: int
    fed: list[int]
    used_s: float


class DrivenText:
    """One text at the swarm. Opens its session at the first use; :meth:`close` frees the caches,
    and using it again replays the text.
    """

    method: ClassVar[str] = DRIVE_METHOD

    def __init__(
        self,
        client: MeshClient,
        *,
        routing: RoutingOptions | None = None,
        timeouts: ClientTimeouts | None = None,
    ) -> None:
        self._client = client
        self._routing = routing or RoutingOptions()
        self._timeouts = timeouts or client.timeouts
        self._link: _Link | None = None
        self.route: Route = ()
        self.reroutes = 0

    @property
    def width(self) -> int:
        """How many values come back for each row."""
        return self._client.config.vocab_size

    @property
    def tokens(self) -> Sequence[int]:
        """The text that the swarm holds now."""
        return self._link.fed if self._link is not None else ()

    async def compute_logits(
        self, token_ids: Sequence[int], *, wanted: int = 1, capacity: int = 0
    ) -> Logits:
        """Return the logits after the last ``wanted`` tokens of ``token_ids``, the whole text.

        A new session reserves ``capacity`` tokens, or what the text needs. Raises InvalidRequest,
        NoRoute, or SessionLost after too many failures.
        """
        if not 0 < wanted <= len(token_ids):
            raise InvalidRequest("input_ids", f"{wanted} rows of {len(token_ids)} tokens")
        self._client.check_length("input_ids", len(token_ids))
        self._client.check_vocabulary("input_ids", token_ids)
        search = RouteSearch(self._client.planner, self._routing, Trace())
        while True:
            try:
                await self._ensure_link(search, max(capacity, len(token_ids)), len(token_ids))
                return await self._feed(token_ids, wanted)
            except HopFailed as failure:
                self.reroutes += 1
                await self.close()
                await search.note_failure(failure)

    async def _ensure_link(self, search: RouteSearch, capacity: int, needed: int) -> None:
        """Have an open session with room for ``needed`` tokens. Raises HopFailed."""
        link = self._link
        if link is not None:
            if link.capacity >= needed and time.monotonic() - link.used_s < IDLE_S:
                return
            await self.close()
        capacity = min(capacity, self._client.config.max_context)
        self.route = route = await search.find(capacity)
        request = DriveSession(make_session_id(), route, capacity)
        stream = await open_session(
            self._client.host,
            self.method,
            request,
            encode_drive(request),
            self._timeouts,
            watch=self._client.watch,
        )
        self._link = _Link(stream, route, capacity, [], time.monotonic())

    async def _feed(self, token_ids: Sequence[int], wanted: int) -> Logits:
        """Send what the swarm lacks; return the logits. Raises HopFailed."""
        link = self._link
        if link is None:
            raise HopFailed(None, RefusalReason.UNKNOWN_SESSION, "the session was closed")
        shared = count_shared(link.fed, token_ids)
        position = min(shared, len(token_ids) - wanted)
        new = tuple(token_ids[position:])
        is_done = False
        try:
            await blame_peer(
                link.stream.peer_id, link.stream.send(encode_feed(FeedFrame(position, new, wanted)))
            )
            rows = await self._receive_rows(link, len(token_ids), wanted, fed=len(new))
            self._check_rows(rows)
            is_done = True
        finally:
            if not is_done:
                # Cancelled or failed: what the hops hold now is unknown.
                await self.close()
        link.fed[position:] = new
        link.used_s = time.monotonic()
        return rows

    async def _receive_rows(self, link: _Link, length: int, wanted: int, *, fed: int) -> Logits:
        """Collect the frames of one answer. Raises HopFailed."""
        timeout_s = self._timeouts.token_s + self._timeouts.prompt_token_s * fed
        misses = MISSES + fed // TOKENS_PER_MISS
        # The size is ours: a peer cannot make us allocate more than was asked for.
        rows = np.empty((wanted, self.width), dtype=np.float32)
        count = 0
        while count < wanted:
            raw = await receive_frame(
                link.stream, link.route, timeout_s, watch=self._client.watch, misses=misses
            )
            frame = decode_from(
                link.stream.peer_id, raw, lambda raw: decode_logits(raw, vocab_size=self.width)
            )
            _check_place(frame, link.stream, expected=length - wanted + count, left=wanted - count)
            part = np.frombuffer(frame.data, dtype="<f4").reshape(frame.rows, self.width)
            rows[count : count + frame.rows] = part
            count += frame.rows
        return rows

    def _check_rows(self, rows: Logits) -> None:
        """Raise HopFailed for rows that cannot be."""

    async def close(self) -> None:
        """Drop the session on every hop; idempotent."""
        link, self._link = self._link, None
        if link is not None:
            await link.stream.abort()


def _check_place(frame: LogitsFrame, stream: Stream, *, expected: int, left: int) -> None:
    if frame.position != expected or frame.rows > left:
        raise HopFailed(stream.peer_id, RefusalReason.MALFORMED, "impossible logits")


def count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    shortest = min(len(one), len(other))
    if list(one[:shortest]) == list(other[:shortest]):
        return shortest
    return next(i for i in range(shortest) if one[i] != other[i])
