"""Generating text over the mesh. No model weights are here, only the tokenizer.

Theory of operation: how an answer survives its hosters
=======================================================

**Parts.** :class:`MeshClient` has a host, a directory of who serves which layers, a tokenizer and
the model's numbers. Each answer has a :class:`RouteSearch` (which routes are left, and how often
another was tried) and a :class:`Trace` (what the reader is told of it). A session over one route is
``route_session.py``; a text that transformers drives token by token is ``driven_text.py``, and
recovers in the same way.

**The answer is known here.** The prompt and every token so far are kept by the client. Hosters keep
keys and values, which can be computed again. So a lost hoster costs the time to compute the prompt
and the tokens so far once more, and nothing else. The reader sees a pause, never a wrong, repeated
or lost token:

- The new request has the prompt with the tokens so far, and ``first_index`` says how many of them
  belong to the answer. A draw of the sampler is a function of the seed and of the token's index, so
  another hoster chooses what the lost one would have chosen (docs/determinism.md says up to what).
- Where all hops can, the session is opened so that it can go on: the hops that are left keep their
  caches, and only the lost range is filled again, by another hoster, from what the hop before kept
  (mesh/inference/refills.py). Otherwise, and where that fails, all of the new route computes all of
  the text.
- Each token is checked here: the next index, an id of the vocabulary, finite log probabilities, and
  an end exactly where the request says. A token that fails the check is not shown.

**Order of events.**

1. Plan a route over what the directory knows and what was measured, or take the one that has the
   beginning of the text (mesh/client/route_memory.py). If some layer has no server, ask for the
   directory again and plan once more.
2. Connect to the first hop, send the request, and yield its tokens.
3. If the session fails (:class:`HopFailed`), note who is to blame. If the other hops can go on,
   plan hosters for the lost layers only (mesh/client/refill.py) and go to 2; else go to 1 without
   the peer.

**Who is blamed.** An ERROR frame names a hop of the route; a broken stream is the first hop's.
While a token is awaited the hops are pinged, and one that no longer answers is to blame: its
machine is frozen or cut off, and no stream breaks (mesh/routing/peer_watch.py). Until it answers
again it is left out of the routes of other answers too. Where no hop is named (no token in time
though all answer, or a number that is not finite), the hops are asked a short question: those that
stay silent are left out, or all of the route if all answer. A refusal is no reason to give up
either, not even one that blames the request: the request was checked here.

**When no peer is left.** If leaving peers out leaves no route, the list is cleared after a pause
that doubles from ``FIRST_BACKOFF_S`` to ``MAX_BACKOFF_S``: busy hosters may have room, and
restarted ones may be back. Waiting for busy ones counts as no failure for ``busy_wait_s``.

**What ends an answer.** Its last token; a stop text; a reader that closes the generator, which
aborts the stream to the first hop, and with it the session on every hop; NoRoute, if some layer has
no server although no peer was left out; SessionLost after ``max_reroutes`` failures, with the typed
reason of the last one. InvalidRequest is raised before anything is sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from keys.peer import PeerId
from mesh.client.receipts import AnswerReceipt
from mesh.client.refill import AnswerRefill, plan_refill
from mesh.client.route_memory import RouteMemory
from mesh.client.route_session import ClientTimeouts, HopFailed, fetch_scores, stream_tokens
from mesh.client.stops import StopMatcher
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
from mesh.inference.tickets import Ticket
from mesh.inference.tokens import Finish, Token, Trace, TracedHop
from mesh.inference.wire import SALT_SIZE, OpenSession, make_session_id
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory, fetch_info
from mesh.routing.features import Feature
from mesh.routing.hop import Route
from mesh.routing.hop_measures import TokenPace
from mesh.routing.peer_watch import PeerWatch
from mesh.routing.routing import compute_room, plan_route

MAX_REROUTES = 16
MAX_DIRECTORY_PEERS = 4
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 4.0
REFRESH_GRACE_S = 0.5
DIAL_S = 3.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """How routes are chosen. ``max_layers_per_hop`` forces a route over several hosters.

    Hosters that are busy are asked again for ``busy_wait_s``; after that, being busy counts as any
    other failure, of which ``max_reroutes`` are allowed. Without ``refills`` every hop of a new
    route computes the whole text.
    """

    max_layers_per_hop: int | None = None
    max_reroutes: int = MAX_REROUTES
    busy_wait_s: float = 30.0
    refills: bool = True


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
        """``peers`` are asked for the directory; without any, other code fills it."""
        self.host = host
        self.directory = directory
        self.config = config
        self.tokenizer = tokenizer
        self._peers = tuple(peers)
        self.timeouts = timeouts or ClientTimeouts()
        self._salt_key = os.urandom(SALT_SIZE)
        self._routes = RouteMemory()
        self._draw = Random()
        self.watch = PeerWatch(host, directory.ensure_connected, forget=directory.forget_connection)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids. Raises InvalidRequest naming what is wrong."""
        if isinstance(prompt, str):
            token_ids = self.tokenizer.encode(prompt)
        else:
            messages = [part for part in prompt if isinstance(part, Mapping)]
            ids = [part for part in prompt if isinstance(part, int)]
            if messages and ids:
                raise InvalidRequest("prompt", "token ids and messages together")
            token_ids = self.tokenizer.encode_chat(messages) if messages else tuple(ids)
        if not token_ids:
            raise InvalidRequest("prompt", "is empty")
        self.check_vocabulary("prompt", token_ids)
        return token_ids

    def check_vocabulary(self, field: str, token_ids: Sequence[int]) -> None:
        """Raise InvalidRequest that names ``field`` unless the model has these tokens."""
        size = self.config.vocab_size
        if min(token_ids) < 0 or max(token_ids) >= size:
            raise InvalidRequest(field, f"a token id is outside the vocabulary of {size}")

    def check_length(self, field: str, tokens: int, *, max_new_tokens: int = 0) -> None:
        """Raise InvalidRequest that names ``field`` unless the model's context has room."""
        room = self.config.max_context
        if tokens + max_new_tokens > room:
            new = f" and {max_new_tokens} new ones" if max_new_tokens else ""
            raise InvalidRequest(field, f"{tokens} tokens{new} do not fit into a context of {room}")

    async def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        routing: RoutingOptions | None = None,
        user: str = "",
        ignore_eos: bool = False,
        receipt: AnswerReceipt | None = None,
    ) -> AsyncGenerator[Token, None]:
        """Yield the answer token by token; closing the generator frees the cache on every hop.

        Hosters reuse what they computed of an earlier prompt of the same ``user`` of this client.
        They learn that two prompts are of one user, and not which one.

        The model's end tokens stop the answer unless ``sampling`` names stop tokens itself, or
        ``ignore_eos`` lets nothing but its length end it. With a ``receipt`` the hosters sign what
        they did; it is complete once this has ended or was closed, and hosters of earlier versions
        are left out. Raises InvalidRequest, NoRoute, or SessionLost after too many failures.
        """
        if max_new_tokens < 1:
            raise InvalidRequest("max_new_tokens", "must be at least 1")
        token_ids = self.encode(prompt)
        self.check_length("prompt", len(token_ids), max_new_tokens=max_new_tokens)
        sampling = self._complete(sampling or Sampling(), ignore_eos=ignore_eos)
        stops, text = StopMatcher(stop), self.tokenizer.start_stream()
        trace = Trace(started_s=time.monotonic())
        tokens = self._stream_tokens(
            token_ids,
            max_new_tokens,
            sampling,
            routing or RoutingOptions(),
            trace,
            salt=self._make_salt(user),
            receipt=receipt,
        )
        async with aclosing(tokens):
            async for token in tokens:
                shown = stops.feed(text.feed(token.token_id))
                finish = Finish.STOP if stops.is_stopped else token.finish
                if finish is not Finish.NOT_YET:
                    shown += stops.flush()
                yield replace(token, text=shown, finish=finish, trace=trace)
                if finish is not Finish.NOT_YET:
                    return

    async def score(
        self,
        prompt: Prompt,
        *,
        top_logprobs: int = 0,
        routing: RoutingOptions | None = None,
    ) -> tuple[Token, ...]:
        """Return each token of the prompt after its first, with its log probability.

        ``top_logprobs`` alternatives come with each. Raises as :meth:`generate` does.
        """
        token_ids = self.encode(prompt)
        self.check_length("prompt", len(token_ids))
        if len(token_ids) == 1:
            return ()
        sampling = Sampling(top_logprobs=top_logprobs)
        sampling.check()
        search = RouteSearch(self, routing or RoutingOptions(), Trace())
        while True:
            route = await search.find(len(token_ids))
            request = OpenSession(make_session_id(), route, sampling, token_ids, max_new_tokens=0)
            try:
                return await fetch_scores(
                    self.host, request, timeouts=self.timeouts, watch=self.watch
                )
            except HopFailed as failure:
                await search.note_failure(failure)

    def _make_salt(self, user: str) -> bytes:
        """Return a name of the user for hosters; another client calls the same user otherwise.

        A client with one user needs none, and an OPEN frame without it is one of earlier versions.
        """
        if not user:
            return b""
        return hashlib.blake2b(user.encode(), key=self._salt_key, digest_size=SALT_SIZE).digest()

    def _complete(self, sampling: Sampling, *, ignore_eos: bool) -> Sampling:
        if not sampling.stop_token_ids and not ignore_eos:
            ends = self.config.eos_token_ids[:MAX_STOP_TOKENS]
            sampling = replace(sampling, stop_token_ids=ends)
        sampling.check()
        named = {
            "stop_token_ids": sampling.stop_token_ids,
            "logit_bias": [token_id for token_id, _ in sampling.logit_bias],
        }
        for field, token_ids in named.items():
            if token_ids:
                self.check_vocabulary(field, token_ids)
        return sampling

    async def _stream_tokens(
        self,
        prompt: tuple[int, ...],
        max_new_tokens: int,
        sampling: Sampling,
        routing: RoutingOptions,
        trace: Trace,
        *,
        salt: bytes,
        receipt: AnswerReceipt | None,
    ) -> AsyncGenerator[Token, None]:
        """Yield the answer's tokens over as many routes as it takes."""
        answer: list[int] = []
        needs = list_needs(sampling, has_receipt=receipt is not None)
        search = RouteSearch(
            self, routing, trace, needs=needs, prefer=self._routes.find(salt, prompt)
        )
        refill = AnswerRefill(is_wanted=routing.refills and receipt is None)
        route: Route = ()
        while True:
            if route:
                ticket: Ticket | None = refill.go_on()
            else:
                route = await search.find(len(prompt) + max_new_tokens)
                ticket = refill.begin(route, self.directory.list_route_servers())
            pace = TokenPace()
            if not answer:
                trace.cached_tokens = None
            request = OpenSession(
                make_session_id(),
                route,
                sampling,
                (*prompt, *answer),
                max_new_tokens=max_new_tokens - len(answer),
                first_index=len(answer),
                # Where a salt is sent anyway; a frame without one is of earlier versions.
                reused=len(prompt) if salt and not answer else 0,
                salt=salt,
                receipt_salt=b"" if receipt is None else receipt.salt,
                ticket=ticket,
            )
            tokens = stream_tokens(
                self.host,
                request,
                vocab_size=self.config.vocab_size,
                timeouts=self.timeouts,
                watch=self.watch,
                receipt=None
                if receipt is None
                else receipt.start_part(request, self.host.network_id),
                note_cached=trace.note_cached,
            )
            try:
                async with aclosing(tokens):
                    async for token in tokens:
                        pace.note_arrival()
                        refill.note_token()
                        answer.append(token.token_id)
                        trace.count(time.monotonic(), times_us=token.times_us)
                        yield token
                        pace.note_wait()
                self._note_answer(route, pace, salt=salt, texts=(prompt, (*prompt, *answer)))
                return
            except GeneratorExit:
                # A stop text, or a reader that goes: the tokens so far were good.
                self._note_answer(route, pace, salt=salt, texts=(prompt, (*prompt, *answer)))
                raise
            except HopFailed as failure:
                if refill.may_go_on(failure):
                    route = await search.find_refill(failure)
                else:
                    route = ()
                    await search.note_failure(failure)

    def _note_answer(
        self, route: Route, pace: TokenPace, *, salt: bytes, texts: Sequence[Sequence[int]]
    ) -> None:
        """Remember how a route served, and which texts its hosters have now."""
        self.directory.note_answer(route, pace.token_s)
        for text in texts:
            self._routes.note(salt, text, route)

    async def refresh(self, *, without: Collection[PeerId] = ()) -> None:
        """Ask for the directory: the first peers, and servers it already names, for these may last
        longer than those. Several are asked, since one may know less than another; after the first
        answer the others have ``REFRESH_GRACE_S`` more. Silent peers and those of ``without`` are
        asked where there are no others.

        Raises a PeerError if none answers.
        """
        failures: list[PeerError] = []
        silent = self.watch.list_silent() | set(without)

        async def ask(peer: PeerId) -> bool:
            try:
                await self.directory.ensure_connected(peer)
                await self.directory.fetch_from_peer(peer)
            except PeerError as error:
                failures.append(error)
                return False
            return True

        known = (server.peer_id for server in self.directory.list_route_servers())
        named = dict.fromkeys((*self._peers, *known))
        # All of them, if all are silent: one may be back.
        asked = ([peer for peer in named if peer not in silent] or [*named])[:MAX_DIRECTORY_PEERS]
        await _ask_briefly([ask(peer) for peer in asked])
        if asked and len(failures) == len(asked):
            raise failures[0]

    def plan(
        self,
        routing: RoutingOptions,
        *,
        exclude: set[PeerId],
        cache_tokens: int,
        needs: Collection[Feature] = (),
        prefer: Route = (),
    ) -> Route:
        """Plan a route over what the directory knows now, without silent peers, or ``prefer`` if it
        costs little more.

        Raises NoRoute.
        """
        return plan_route(
            self.directory.list_route_servers(row_size=2 * self.config.hidden_size),
            num_layers=self.config.num_layers,
            max_layers_per_hop=routing.max_layers_per_hop,
            exclude=exclude | self.watch.list_silent(),
            cache_tokens=cache_tokens,
            needs=needs,
            draw=self._draw,
            prefer=prefer,
        )

    def check_room(self, cache_tokens: int) -> None:
        """Raise SessionTooLong if no way through the hosters announces so many free tokens."""
        room = compute_room(self.directory.list_route_servers(), self.config.num_layers)
        if room < cache_tokens:
            raise SessionTooLong(cache_tokens, room)

    async def find_silent(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Return those of ``peers`` that do not answer a short question."""

        async def is_silent(peer: PeerId) -> bool:
            try:
                await fetch_info(self.host, peer, timeout_s=self.timeouts.probe_s)
            except PeerError:
                return True
            return False

        silent = await asyncio.gather(*(is_silent(peer) for peer in peers))
        return [peer for peer, gone in zip(peers, silent, strict=True) if gone]


def list_needs(sampling: Sampling, *, has_receipt: bool = False) -> tuple[Feature, ...]:
    """Return what a session with this sampling needs of its hops beyond plain sessions."""
    wanted = {
        Feature.SHAPED: sampling.is_shaped,
        Feature.GRAMMAR: sampling.grammar is not None,
        Feature.RECEIPT: has_receipt,
    }
    return tuple(feature for feature, is_needed in wanted.items() if is_needed)


async def _ask_briefly(questions: Sequence[Coroutine[None, None, bool]]) -> None:
    """Wait until one has an answer, and ``REFRESH_GRACE_S`` more for the others."""
    async with asyncio.TaskGroup() as tasks:
        pending = {tasks.create_task(question) for question in questions}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending and any(task.result() for task in done):
                _, late = await asyncio.wait(pending, timeout=REFRESH_GRACE_S)
                for task in late:
                    task.cancel()
                return


class RouteSearch:
    """The routes of one answer: who is left out, and how often another route was tried."""

    def __init__(
        self,
        client: MeshClient,
        routing: RoutingOptions,
        trace: Trace,
        *,
        needs: Collection[Feature] = (),
        prefer: Route = (),
    ) -> None:
        """``prefer`` is a route that has the beginning of the text."""
        self._client = client
        self._needs = needs
        self._prefer = prefer
        self._routing = routing
        self._trace = trace
        self._route: Route = ()
        self._excluded: set[PeerId] = set()
        self._cache_tokens = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._failures = 0
        self._busy_until_s: float | None = None
        self._last_reason = RefusalReason.HOP_LOST

    async def find(self, cache_tokens: int) -> Route:
        """Return a route whose first hop has been dialled. Raises NoRoute or SessionLost.

        Where nothing is left, those that failed get another chance after a pause: they may
        have been busy, or back already.
        """
        self._cache_tokens = cache_tokens
        while True:
            try:
                route = await self._plan(cache_tokens)
                await self._dial(route[0].peer_id)
            except PeerUnreachable as error:
                await self.note_failure(
                    HopFailed(error.peer_id, RefusalReason.HOP_LOST, str(error))
                )
                continue
            except NoRoute:
                silent = self._client.watch.list_silent()
                if not self._excluded and not silent:
                    raise
                self._excluded.clear()
                self._count("no route")
                await self._pause(silent)
                continue
            self._take(route)
            return route

    def _take(self, route: Route) -> None:
        self._route = route
        self._trace.route = tuple(
            TracedHop(str(hop.peer_id), hop.span.start, hop.span.end) for hop in route
        )

    async def find_refill(self, failure: HopFailed) -> Route:
        """Leave the failed peer out; return the route with other hops in its place.

        Its first hop has been dialled. No hops if there are none: :meth:`find` plans anew then.
        Raises as :meth:`note_failure` does.
        """
        blamed = await self._note(failure)
        try:
            route = self._plan_refill(blamed)
        except NoRoute:
            await self._refresh()
            try:
                route = self._plan_refill(blamed)
            except NoRoute:
                return ()
        try:
            await self._dial(route[0].peer_id)
        except PeerUnreachable as error:
            await self.note_failure(HopFailed(error.peer_id, RefusalReason.HOP_LOST, str(error)))
            return ()
        self._take(route)
        self._trace.refills += 1
        return route

    def _plan_refill(self, lost: Collection[PeerId]) -> Route:
        client = self._client
        return plan_refill(
            client.directory.list_route_servers(row_size=2 * client.config.hidden_size),
            self._route,
            lost=lost,
            exclude=self._excluded | client.watch.list_silent(),
            cache_tokens=self._cache_tokens,
            needs=self._needs,
        )

    async def _dial(self, peer: PeerId) -> None:
        """Raises PeerUnreachable. p2pd asks others for the addresses of a peer that is gone, and a
        frozen one among them answers late.
        """
        try:
            async with asyncio.timeout(DIAL_S):
                await self._client.directory.ensure_connected(peer)
        except TimeoutError as error:
            raise PeerUnreachable(peer, f"no connection within {DIAL_S:g} s") from error

    async def _plan(self, cache_tokens: int) -> Route:
        plan = partial(
            self._client.plan,
            self._routing,
            exclude=self._excluded,
            cache_tokens=cache_tokens,
            needs=self._needs,
            prefer=self._prefer,
        )
        try:
            return plan()
        except NoRoute:
            await self._refresh()
            return plan()

    async def note_failure(self, failure: HopFailed) -> None:
        """Leave the failed peer out from now on.

        Raises SessionLost after too many failures, SessionTooLong where none has cache for it.
        """
        await self._note(failure)
        await self._refresh()

    async def _note(self, failure: HopFailed) -> list[PeerId]:
        """Count a failure, and return the peers that are left out from now on."""
        self._trace.failures.append((failure.peer_id, failure.reason))
        self._last_reason = failure.reason
        if failure.reason is RefusalReason.CONTEXT_OVERFLOW:
            self._client.check_room(self._cache_tokens)
        self._count(str(failure))
        logger.info("re-routing: %s", failure)
        blamed = [failure.peer_id] if failure.peer_id is not None else await self._find_blamed()
        for peer in blamed:
            self._excluded.add(peer)
            self._client.directory.forget_connection(peer)
        if failure.reason in (RefusalReason.HOP_LOST, RefusalReason.TIMEOUT):
            self._client.watch.suspect(blamed)
        return blamed

    async def _find_blamed(self) -> list[PeerId]:
        """Who is silent; everybody of the route when all of them answer a short question."""
        peers = [hop.peer_id for hop in self._route]
        return await self._client.find_silent(peers) or peers

    def _count(self, detail: str) -> None:
        self._trace.reroutes += 1
        if self._last_reason is RefusalReason.BUSY and self._may_wait():
            return
        self._failures += 1
        if self._failures > self._routing.max_reroutes:
            raise SessionLost(
                f"gave up after {self._routing.max_reroutes} re-routes: {detail}", self._last_reason
            )

    def _may_wait(self) -> bool:
        """Whether the time to wait for busy hosters, from the first of them on, is not over."""
        now_s = time.monotonic()
        if self._busy_until_s is None:
            self._busy_until_s = now_s + self._routing.busy_wait_s
        return now_s < self._busy_until_s

    async def _refresh(self) -> None:
        try:
            await self._client.refresh(without=self._excluded)
        except MeshError as error:
            logger.debug("the directory could not be refreshed: %s", error)

    async def _pause(self, silent: set[PeerId]) -> None:
        """Wait before another try, and see who of the silent peers is back."""
        await asyncio.sleep(self._backoff_s)
        await self._client.watch.check(silent)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
