"""A text that the client drives through the swarm: it sends token ids and gets logits.

Only what differs from the text before is sent: the hosters hold the rest in their caches. The
client keeps the text itself, token ids and nothing else, and so survives lost hosters:

- Where all hops can, the session is opened so that it can go on. If a hop dies, the others keep
  their caches and another hoster fills the lost range from the hidden states that the hop before
  kept (mesh/inference/refills.py). The client says how many tokens at the beginning stay as they
  are; if the first range lost its cache, it answers from where on it needs their ids again.
- Otherwise, and where that fails, the client sends the whole text over a new route.

**What stays.** A step may replace what follows some position, as beams and assistants do. It is
unknown how far the hops had come when one died, so only the tokens before the failed step stay. A
hop that was left once is not taken again for the same session: it may hold another text.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from keys.peer import PeerId
from mesh.client.client import MeshClient
from mesh.client.refill import AnswerRefill
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
from mesh.errors import InvalidRequest, PeerError
from mesh.inference.drive_wire import (
    DRIVE_METHOD,
    DriveSession,
    FeedFrame,
    LogitsFrame,
    decode_logits,
    encode_drive,
    encode_feed,
)
from mesh.inference.refill_wire import RESUMABLE_DRIVE_METHOD, encode_resumable_drive
from mesh.inference.refusals import RefusalReason
from mesh.inference.tickets import Ticket
from mesh.inference.tokens import Trace
from mesh.inference.wire import decode_ready, make_session_id
from mesh.p2p.interface import Stream
from mesh.routing.features import Feature
from mesh.routing.hop import Route
from mesh.routing.peer_watch import MISSES

Logits = NDArray[np.float32]
"""[rows, vocabulary], or [rows, hidden_size] of hidden states."""

IDLE_S = 60.0
"""Hosters drop a session that idles for twice as long, and would be blamed for it."""
CLOSE_S = 1.0


@dataclass(slots=True)
class _Link:
    """An open session on one route, and what its hops hold in their caches.

    The first range holds ``at_first`` tokens of ``text``: all, or fewer after a refill.
    """

    stream: Stream
    route: Route
    capacity: int
    ticket: Ticket | None
    text: list[int]
    at_first: int
    used_s: float


@dataclass(frozen=True, slots=True)
class _Refill:
    """How a session that lost a hop goes on: where, and with which beginning of its text."""

    route: Route
    capacity: int
    text: list[int]


class DrivenText:
    """One text at the swarm. Opens its session at the first use; :meth:`close` frees the caches,
    and using it again replays the text.
    """

    method: ClassVar[str] = DRIVE_METHOD
    takes_refills: ClassVar[bool] = True

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
        self._refill: _Refill | None = None
        self._tickets = AnswerRefill(
            is_wanted=self._routing.refills and self.takes_refills, feature=Feature.DRIVEN_REFILL
        )
        self._left: frozenset[PeerId] = frozenset()
        """Peers that the session went on without."""
        self.route: Route = ()
        self.reroutes = 0
        self.refills = 0
        """The re-routes over which the other hops kept their caches."""

    @property
    def width(self) -> int:
        """How many values come back for each row."""
        return self._client.config.vocab_size

    @property
    def tokens(self) -> Sequence[int]:
        """The text that the swarm holds now."""
        return self._link.text if self._link is not None else ()

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
        search = RouteSearch(
            self._client.planner, self._routing, Trace(), refilled_by=self._tickets.feature
        )
        if self._link is not None:
            search.follow(self._link.route, self._link.capacity, lost=self._left)
        while True:
            try:
                await self._ensure_link(search, max(capacity, len(token_ids)), len(token_ids))
                rows = await self._feed(token_ids, wanted)
            except HopFailed as failure:
                self.reroutes += 1
                await self._recover(search, failure)
            except BaseException:
                # Cancelled, or no route is left: what the hops hold now is unknown.
                self._refill = None
                await self.close()
                raise
            else:
                self._tickets.note_token()
                return rows

    async def _ensure_link(self, search: RouteSearch, capacity: int, needed: int) -> None:
        """Have an open session with room for ``needed`` tokens. Raises HopFailed."""
        link = self._link
        if link is not None:
            if link.capacity >= needed and time.monotonic() - link.used_s < IDLE_S:
                return
            await self.close()
        if self._refill is not None:
            await self._open_again(self._refill)
            return
        capacity = min(capacity, self._client.config.max_context)
        route = await search.find(capacity)
        ticket = self._tickets.begin(route, self._client.directory.list_route_servers())
        self._left = frozenset()
        await self._open(DriveSession(make_session_id(), route, capacity, ticket=ticket), [])

    async def _open(self, request: DriveSession, text: list[int]) -> _Link:
        self.route = request.route
        is_plain = request.ticket is None
        stream = await open_session(
            self._client.host,
            self.method if is_plain else RESUMABLE_DRIVE_METHOD,
            request,
            encode_drive(request) if is_plain else encode_resumable_drive(request),
            self._timeouts,
            watch=self._client.watch,
        )
        self._link = link = _Link(
            stream, request.route, request.capacity, request.ticket, text, 0, time.monotonic()
        )
        return link

    async def _open_again(self, refill: _Refill) -> None:
        """Go on with what the hops keep of the text. Raises HopFailed."""
        request = DriveSession(
            make_session_id(),
            refill.route,
            refill.capacity,
            kept=len(refill.text),
            ticket=self._tickets.go_on(),
        )
        link = await self._open(request, [*refill.text])
        # Each hop hears of the one after it what it has.
        timeout_s = self._timeouts.open_s * len(link.route)
        frame = await receive_frame(link.stream, link.route, timeout_s, watch=self._client.watch)
        link.at_first = decode_from(link.stream.peer_id, frame, decode_ready)
        if link.at_first > len(link.text):
            raise HopFailed(link.stream.peer_id, RefusalReason.MALFORMED, "it kept too much")
        self._refill = None
        self.refills += 1

    async def _recover(self, search: RouteSearch, failure: HopFailed) -> None:
        """Leave what failed, and find out how to go on. Raises as RouteSearch does."""
        link, refill = self._link, self._refill
        await self._drop()
        if refill is None and link is not None:
            refill = _Refill((), link.capacity, link.text)
        self._refill = None
        if refill is None or not refill.text or not self._tickets.may_go_on(failure):
            await search.note_failure(failure)
            return
        route = await search.find_refill(failure)
        self._left = frozenset(search.excluded)
        if route:
            self._refill = _Refill(route, refill.capacity, refill.text)

    async def _feed(self, token_ids: Sequence[int], wanted: int) -> Logits:
        """Send what the swarm lacks; return the logits. Raises HopFailed."""
        link = self._link
        if link is None:
            raise HopFailed(None, RefusalReason.UNKNOWN_SESSION, "the session was closed")
        # Until the answer is there, nothing else is certain to be held by all.
        stays = min(count_shared(link.text, token_ids), len(token_ids) - wanted)
        del link.text[stays:]
        position = min(stays, link.at_first)
        new = tuple(token_ids[position:])
        await blame_peer(
            link.stream.peer_id, link.stream.send(encode_feed(FeedFrame(position, new, wanted)))
        )
        rows = await self._receive_rows(link, len(token_ids), wanted, fed=len(new))
        self._check_rows(rows)
        link.text[stays:] = token_ids[stays:]
        link.at_first = len(token_ids)
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
        """End the session on every hop; idempotent."""
        link = self._link
        if link is not None and link.ticket is not None:
            # So that the hops keep nothing for one who will not come back.
            with contextlib.suppress(PeerError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await link.stream.finish()
        await self._drop()

    async def _drop(self) -> None:
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
