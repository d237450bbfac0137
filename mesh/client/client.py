"""Generating text over the mesh: no model weights here, only the tokenizer.

When a hoster fails in the middle of an answer the client plans another route, sends the prompt
with the tokens that it has, and goes on: the reader sees a pause, never a wrong, repeated or
lost token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from keys.peer import PeerId
from mesh.client.session import ClientTimeouts, HopFailed, fetch_scores, stream_tokens
from mesh.client.stops import StopStrings
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import (
    InvalidRequest,
    MeshError,
    NoRoute,
    PeerError,
    PeerUnreachable,
    SessionLost,
    SessionTooLong,
)
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import MAX_STOP_TOKENS, Sampling
from mesh.inference.wire import SESSION_ID_SIZE, Finish, Hop, OpenSession, TokenFrame, TokenScore
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.routing import RouteHop, compute_room, plan_route

MAX_REROUTES = 16
MAX_DIRECTORY_PEERS = 4
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 4.0
MAX_TRACED_STEPS = 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How routes are chosen. ``max_layers_per_hop`` forces a route over several hosters."""

    max_layers_per_hop: int | None = None
    max_reroutes: int = MAX_REROUTES


@dataclass(slots=True)
class Trace:
    """How an answer came about; grows while it streams.

    ``hop_times_us`` holds, for each of the last steps, the time in each range and then the whole
    step as the first range saw it. ``failures`` are the peers left out, with the reason.
    """

    route: tuple[RouteHop, ...] = ()
    reroutes: int = 0
    failures: list[tuple[PeerId | None, str]] = field(default_factory=list)
    hop_times_us: list[tuple[int, ...]] = field(default_factory=list)
    started_s: float = 0.0
    first_token_s: float | None = None
    last_token_s: float | None = None
    tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one, by the time since it; None before the second."""
        if self.first_token_s is None or self.last_token_s is None or self.tokens < 2:
            return None
        elapsed_s = self.last_token_s - self.first_token_s
        return (self.tokens - 1) / elapsed_s if elapsed_s > 0 else None

    @property
    def time_to_first_token_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.started_s

    def count(self, frame: TokenFrame, now_s: float) -> None:
        """Note one token."""
        self.tokens += 1
        self.last_token_s = now_s
        if self.first_token_s is None:
            self.first_token_s = now_s
        if len(self.hop_times_us) < MAX_TRACED_STEPS:
            self.hop_times_us.append(frame.times_us)


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer. ``text`` may be empty while a character or a stop is incomplete.

    ``finish_reason`` is ``stop`` or ``length`` on the last piece, else None. An end-of-text token
    has no text. ``trace`` is one object for the whole answer.
    """

    token_id: int
    text: str
    index: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]
    finish_reason: str | None
    trace: Trace


Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Plain text, token ids, or chat messages with ``role`` and ``content``."""


class MeshClient:
    """Asks a network for answers. One client serves many answers at once."""

    def __init__(
        self,
        host: Host,
        directory: Directory,
        *,
        config: ModelConfig,
        tokenizer: ChatTokenizer,
        peers: Sequence[PeerId] = (),
        timeouts: ClientTimeouts | None = None,
    ) -> None:
        """``peers`` are asked for the directory; without any it is somebody else's to fill."""
        self._host = host
        self._directory = directory
        self._config = config
        self._tokenizer = tokenizer
        self._peers = tuple(peers)
        self._timeouts = timeouts or ClientTimeouts()

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def host(self) -> Host:
        return self._host

    @property
    def timeouts(self) -> ClientTimeouts:
        return self._timeouts

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids. Raises InvalidRequest naming what is wrong."""
        if isinstance(prompt, str):
            token_ids = self._tokenizer.encode(prompt)
        else:
            messages = [part for part in prompt if isinstance(part, Mapping)]
            ids = [part for part in prompt if isinstance(part, int)]
            if messages and ids:
                raise InvalidRequest("prompt", "token ids and messages together")
            token_ids = self._tokenizer.encode_chat(messages) if messages else tuple(ids)
        if not token_ids:
            raise InvalidRequest("prompt", "is empty")
        if min(token_ids) < 0 or max(token_ids) >= self._config.vocab_size:
            raise InvalidRequest(
                "prompt", f"a token id is outside the vocabulary of {self._config.vocab_size}"
            )
        return token_ids

    async def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        routing: RoutingOptions | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer piece by piece; closing the generator frees the cache on every hop.

        The model's end tokens stop the answer unless ``sampling`` names stop tokens itself.
        Raises InvalidRequest, NoRoute, or SessionLost after too many failures.
        """
        if max_new_tokens < 1:
            raise InvalidRequest("max_new_tokens", "must be at least 1")
        token_ids = self.encode(prompt)
        self._check_length(len(token_ids), max_new_tokens)
        sampling = self._complete(sampling or Sampling())
        stops, text = StopStrings(stop), self._tokenizer.start_stream()
        trace = Trace(started_s=time.monotonic())
        frames = self._stream_frames(
            token_ids, max_new_tokens, sampling, routing or RoutingOptions(), trace
        )
        async with aclosing(frames):
            async for frame in frames:
                shown = stops.feed(text.feed(frame.token_id))
                reason = _FINISH_REASONS[frame.finish]
                if stops.is_stopped:
                    reason = "stop"
                elif reason is not None:
                    shown += stops.flush()
                yield Piece(
                    token_id=frame.token_id,
                    text=shown,
                    index=frame.index,
                    logprob=frame.logprob,
                    top_logprobs=frame.top,
                    finish_reason=reason,
                    trace=trace,
                )
                if reason is not None:
                    return

    async def score(
        self,
        prompt: Prompt,
        *,
        top_logprobs: int = 0,
        routing: RoutingOptions | None = None,
    ) -> tuple[TokenScore, ...]:
        """Return the log probability of each token of the prompt after its first.

        ``top_logprobs`` alternatives come with each. Raises as :meth:`generate` does.
        """
        token_ids = self.encode(prompt)
        self._check_length(len(token_ids), 0)
        if len(token_ids) == 1:
            return ()
        sampling = Sampling(top_logprobs=top_logprobs)
        sampling.check()
        search = RouteSearch(self, routing or RoutingOptions(), Trace())
        while True:
            route = await search.find(len(token_ids))
            request = _make_request(route, sampling, token_ids, max_new_tokens=0)
            try:
                return await fetch_scores(self._host, request, timeouts=self._timeouts)
            except HopFailed as failure:
                await search.note_failure(failure)

    def _check_length(self, prompt_tokens: int, max_new_tokens: int) -> None:
        if prompt_tokens + max_new_tokens > self._config.max_context:
            raise InvalidRequest(
                "prompt",
                f"{prompt_tokens} tokens and {max_new_tokens} new ones do not fit into a context "
                f"of {self._config.max_context}",
            )

    def _complete(self, sampling: Sampling) -> Sampling:
        sampling.check()
        if sampling.stop_token_ids:
            return sampling
        return replace(sampling, stop_token_ids=self._config.eos_token_ids[:MAX_STOP_TOKENS])

    async def _stream_frames(
        self,
        prompt: tuple[int, ...],
        max_new_tokens: int,
        sampling: Sampling,
        routing: RoutingOptions,
        trace: Trace,
    ) -> AsyncGenerator[TokenFrame, None]:
        """Yield the answer's tokens over as many routes as it takes."""
        answer: list[int] = []
        search = RouteSearch(self, routing, trace)
        while True:
            route = await search.find(len(prompt) + max_new_tokens)
            request = _make_request(
                route,
                sampling,
                (*prompt, *answer),
                max_new_tokens=max_new_tokens - len(answer),
                first_index=len(answer),
            )
            frames = stream_tokens(
                self._host,
                request,
                vocab_size=self._config.vocab_size,
                timeouts=self._timeouts,
            )
            try:
                async with aclosing(frames):
                    async for frame in frames:
                        answer.append(frame.token_id)
                        trace.count(frame, time.monotonic())
                        yield frame
                return
            except HopFailed as failure:
                await search.note_failure(failure)

    async def refresh(self) -> None:
        """Ask for the directory: the first peers, and servers it already names, for these may last
        longer than those. Several are asked, since one may know less than another.

        Raises a PeerError if none answers.
        """
        failures: list[PeerError] = []

        async def ask(peer: PeerId) -> None:
            try:
                await self._directory.ensure_connected(peer)
                await self._directory.fetch_from_peer(peer)
            except PeerError as error:
                failures.append(error)

        known = (server.peer_id for server in self._directory.list_route_servers())
        asked = tuple(dict.fromkeys((*self._peers, *known)))[:MAX_DIRECTORY_PEERS]
        await asyncio.gather(*(ask(peer) for peer in asked))
        if asked and len(failures) == len(asked):
            raise failures[0]

    def plan(
        self, routing: RoutingOptions, *, exclude: set[PeerId], cache_tokens: int
    ) -> tuple[RouteHop, ...]:
        """Plan a route over what the directory knows now. Raises NoRoute."""
        return plan_route(
            self._directory.list_route_servers(),
            num_layers=self._config.num_layers,
            max_layers_per_hop=routing.max_layers_per_hop,
            exclude=exclude,
            cache_tokens=cache_tokens,
        )

    def check_room(self, cache_tokens: int) -> None:
        """Raise SessionTooLong if no way through the hosters announces so many free tokens."""
        room = compute_room(self._directory.list_route_servers(), self._config.num_layers)
        if room < cache_tokens:
            raise SessionTooLong(cache_tokens, room)

    async def connect(self, peer: PeerId) -> None:
        """Make sure that a hop can be dialled. Raises PeerUnreachable."""
        await self._directory.ensure_connected(peer)

    def forget(self, peer: PeerId) -> None:
        """Dial the peer again before its next use."""
        self._directory.forget_connection(peer)

    async def find_silent(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Return those of ``peers`` that do not answer a short question."""

        async def is_silent(peer: PeerId) -> bool:
            try:
                await fetch_info(self._host, peer, timeout_s=self._timeouts.probe_s)
            except PeerError:
                return True
            return False

        silent = await asyncio.gather(*(is_silent(peer) for peer in peers))
        return [peer for peer, gone in zip(peers, silent, strict=True) if gone]


def _make_request(
    route: Sequence[RouteHop],
    sampling: Sampling,
    token_ids: tuple[int, ...],
    *,
    max_new_tokens: int,
    first_index: int = 0,
) -> OpenSession:
    """Return a request under a fresh session id."""
    return OpenSession(
        session_id=os.urandom(SESSION_ID_SIZE),
        route=tuple(Hop(hop.peer_id, hop.span) for hop in route),
        sampling=sampling,
        token_ids=token_ids,
        max_new_tokens=max_new_tokens,
        first_index=first_index,
    )


_FINISH_REASONS = {Finish.NOT_YET: None, Finish.STOP: "stop", Finish.LENGTH: "length"}


class RouteSearch:
    """The routes of one answer: who is left out, and how often another route was tried."""

    def __init__(self, client: MeshClient, routing: RoutingOptions, trace: Trace) -> None:
        self._client = client
        self._routing = routing
        self._trace = trace
        self._excluded: set[PeerId] = set()
        self._cache_tokens = 0
        self._backoff_s = FIRST_BACKOFF_S

    async def find(self, cache_tokens: int) -> tuple[RouteHop, ...]:
        """Return a route whose hops have been dialled. Raises NoRoute or SessionLost.

        Where nothing is left, those that failed get another chance after a pause: they may
        have been busy, or back already.
        """
        self._cache_tokens = cache_tokens
        while True:
            try:
                route = await self._plan(cache_tokens)
                await self._client.connect(route[0].peer_id)
            except PeerUnreachable as error:
                await self.note_failure(HopFailed(error.peer_id, "unreachable", str(error)))
                continue
            except NoRoute:
                if not self._excluded:
                    raise
                self._excluded.clear()
                self._count("no route")
                await self._pause()
                continue
            self._trace.route = route
            return route

    async def _plan(self, cache_tokens: int) -> tuple[RouteHop, ...]:
        try:
            return self._client.plan(
                self._routing, exclude=self._excluded, cache_tokens=cache_tokens
            )
        except NoRoute:
            await self._refresh()
            return self._client.plan(
                self._routing, exclude=self._excluded, cache_tokens=cache_tokens
            )

    async def note_failure(self, failure: HopFailed) -> None:
        """Leave the failed peer out from now on.

        Raises SessionLost after too many failures, SessionTooLong where none has cache for it.
        """
        self._trace.failures.append((failure.peer_id, failure.reason))
        if failure.reason == RefusalReason.CONTEXT_OVERFLOW:
            self._client.check_room(self._cache_tokens)
        self._count(str(failure))
        logger.info("re-routing: %s", failure)
        blamed = [failure.peer_id] if failure.peer_id is not None else await self._find_blamed()
        for peer in blamed:
            self._excluded.add(peer)
            self._client.forget(peer)
        await self._refresh()

    async def _find_blamed(self) -> list[PeerId]:
        """Who is silent; everybody of the route when all of them answer a short question."""
        peers = [hop.peer_id for hop in self._trace.route]
        return await self._client.find_silent(peers) or peers

    def _count(self, reason: str) -> None:
        self._trace.reroutes += 1
        if self._trace.reroutes > self._routing.max_reroutes:
            raise SessionLost(f"gave up after {self._routing.max_reroutes} re-routes: {reason}")

    async def _refresh(self) -> None:
        try:
            await self._client.refresh()
        except MeshError as error:
            logger.debug("the directory could not be refreshed: %s", error)

    async def _pause(self) -> None:
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
