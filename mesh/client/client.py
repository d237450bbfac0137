"""Generating text over the mesh. No model weights are here, only the tokenizer.

Theory of operation: how an answer survives its hosters
=======================================================

**Parts.** :class:`MeshClient` has a host, a directory of who serves which layers, a tokenizer and
the model's numbers. Each answer has a :class:`RouteSearch` (which routes are left, and how often
another was tried: ``route_search.py``, which also says who is blamed for a failure) and a
:class:`Trace` (what the reader is told of it). A session over one route is ``route_session.py``; a
text that transformers drives token by token is ``driven_text.py``, and recovers in the same way.

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

**What ends an answer.** Its last token; a stop text; a reader that closes the generator, which
aborts the stream to the first hop, and with it the session on every hop; NoRoute, if some layer has
no server although no peer was left out; SessionLost after ``max_reroutes`` failures, with the typed
reason of the last one. InvalidRequest is raised before anything is sent.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from keys.peer import PeerId
from mesh.client.receipts import AnswerReceipt
from mesh.client.refill import AnswerRefill
from mesh.client.route_memory import RouteMemory
from mesh.client.route_search import RoutePlanner, RouteSearch, RoutingOptions, list_needs
from mesh.client.route_session import ClientTimeouts, HopFailed, fetch_scores, stream_tokens
from mesh.client.stops import StopMatcher
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import (
    InvalidRequest,
)
from mesh.inference.sampling import MAX_STOP_TOKENS, Sampling
from mesh.inference.tickets import Ticket
from mesh.inference.tokens import Finish, Token, Trace
from mesh.inference.wire import SALT_SIZE, OpenSession, make_session_id
from mesh.model.config import ModelConfig
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory
from mesh.routing.hop import Route
from mesh.routing.hop_measures import TokenPace
from mesh.routing.peer_watch import PeerWatch

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
        self.timeouts = timeouts or ClientTimeouts()
        self._salt_key = os.urandom(SALT_SIZE)
        self._routes = RouteMemory()
        self.watch = PeerWatch(host, directory.ensure_connected, forget=directory.forget_connection)
        self.planner = RoutePlanner(
            host,
            directory,
            self.watch,
            config=config,
            peers=peers,
            probe_s=self.timeouts.probe_s,
        )

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
        search = RouteSearch(self.planner, routing or RoutingOptions(), Trace())
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
            self.planner, routing, trace, needs=needs, prefer=self._routes.find(salt, prompt)
        )
        refill = AnswerRefill(is_wanted=routing.refills and receipt is None)
        route: Route = ()
        while True:
            if route:
                ticket: Ticket | None = refill.go_on()
            else:
                route = await search.find(len(prompt) + max_new_tokens)
                trace.replays += bool(answer)
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
        """Ask the first peers and known servers who serves which layers, those of ``without`` last.

        Raises a PeerError if none answers.
        """
        await self.planner.refresh(without=without)
