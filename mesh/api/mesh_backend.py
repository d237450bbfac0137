"""The gateway's backend over the swarm's client."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from statistics import median

from mesh.api.backend import (
    Alternative,
    ChatMessage,
    Finished,
    FinishReason,
    Generated,
    GenerateRequest,
    Hop,
    Piece,
    PromptScored,
    Route,
    Routed,
    ServedModel,
    Token,
)
from mesh.api.errors import BackendBusy, GenerationFailed
from mesh.client.client import MeshClient, RoutingOptions, Trace
from mesh.client.client import Piece as ClientPiece
from mesh.errors import InvalidRequest, MeshError, NoRoute, SessionLost
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import Sampling

REFRESH_S = 5.0
BUSY_RETRY_S = 5
SEED_BITS = 64
MICROSECONDS_PER_MILLISECOND = 1000

logger = logging.getLogger(__name__)


class MeshBackend:
    """Serves the one model of a network under ``model_id``.

    ``created_s`` is the Unix time that the model list shows. Run ``keep_fresh`` beside it.
    """

    def __init__(
        self,
        client: MeshClient,
        *,
        model_id: str,
        created_s: int,
        routing: RoutingOptions | None = None,
    ) -> None:
        self._client = client
        self._model_id = model_id
        self._created_s = created_s
        self._routing = routing or RoutingOptions()

    async def keep_fresh(self, *, period_s: float = REFRESH_S) -> None:
        """Follow who serves what, until cancelled: a task of the gateway's group."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await self._client.refresh()
            except MeshError as error:
                logger.warning("the directory could not be refreshed: %s", type(error).__name__)

    async def list_models(self) -> Sequence[ServedModel]:
        """Return the network's model, with the layers that have no server now."""
        config, tokenizer = self._client.config, self._client.tokenizer
        return (
            ServedModel(
                model_id=self._model_id,
                created_s=self._created_s,
                max_context=config.max_context,
                num_layers=config.num_layers,
                uncovered=self._find_uncovered(),
                has_chat_template=tokenizer.has_chat_template,
            ),
        )

    def _find_uncovered(self) -> tuple[tuple[int, int], ...]:
        try:
            self._client.plan(self._routing, exclude=set(), cache_tokens=0)
        except NoRoute as error:
            return error.uncovered
        return ()

    async def encode(self, model_id: str, text: str) -> tuple[int, ...]:
        """Tokenise in a thread, because a long text takes a while."""
        return await asyncio.to_thread(self._client.tokenizer.encode, text)

    async def encode_chat(self, model_id: str, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Render and tokenise in a thread."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return await asyncio.to_thread(self._client.tokenizer.encode_chat, turns)

    async def describe(self, model_id: str, token_ids: Sequence[int]) -> tuple[Token, ...]:
        """Return the tokens' texts as a stream would show them."""
        stream = self._client.tokenizer.start_stream()
        described = []
        for token_id in token_ids:
            if token_id >= self._client.config.vocab_size:
                raise InvalidRequest("prompt", f"token id {token_id} is not in the vocabulary")
            described.append(Token(token_id, stream.feed(token_id), self._read_bytes(token_id)))
        return tuple(described)

    def _read_bytes(self, token_id: int) -> bytes:
        try:
            return self._client.tokenizer.get_token_bytes(token_id)
        except IndexError:
            # Models pad their vocabulary: such a token has a number and no text.
            return b""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Stream one answer of the swarm. Stop sequences are the gateway's business."""
        if request.score_prompt:
            yield await self._score_prompt(request)
        if request.max_new_tokens == 0:
            yield Finished(FinishReason.LENGTH)
            return
        answer = self._client.generate(
            request.prompt_ids,
            max_new_tokens=request.max_new_tokens,
            sampling=_make_sampling(request),
            routing=self._routing,
        )
        with _explained_losses():
            async with aclosing(self._read_pieces(answer, request)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _score_prompt(self, request: GenerateRequest) -> PromptScored:
        wanted = request.alternatives or 0
        described = await self.describe(request.model_id, request.prompt_ids)
        with _explained_losses():
            scores = await self._client.score(
                request.prompt_ids, top_logprobs=wanted, routing=self._routing
            )
        scored = [
            replace(
                token,
                logprob=score.logprob,
                alternatives=self._make_alternatives(score.top[:wanted]),
            )
            for token, score in zip(described[1:], scores, strict=True)
        ]
        return PromptScored((described[0], *scored))

    async def _read_pieces(
        self, answer: AsyncGenerator[ClientPiece, None], request: GenerateRequest
    ) -> AsyncGenerator[Piece, None]:
        route: Route = ()
        async with aclosing(answer):
            async for piece in answer:
                chosen = make_route(piece.trace, with_times=False)
                if chosen != route:
                    route = chosen
                    yield Routed(route)
                yield Generated((self._make_token(piece, request.alternatives),))
                if piece.finish_reason is not None:
                    reason = FinishReason(piece.finish_reason)
                    yield Finished(reason, make_route(piece.trace, with_times=True))

    def _make_token(self, piece: ClientPiece, wanted: int | None) -> Token:
        is_scored = wanted is not None
        return Token(
            piece.token_id,
            piece.text,
            self._read_bytes(piece.token_id),
            logprob=piece.logprob if is_scored else None,
            alternatives=self._make_alternatives(piece.top_logprobs[:wanted]) if is_scored else (),
            # Stop sequences are not the client's here, so only the model's end token stops it.
            is_end=piece.finish_reason == FinishReason.STOP,
        )

    def _make_alternatives(self, top: Sequence[tuple[int, float]]) -> tuple[Alternative, ...]:
        return tuple(Alternative(self._read_bytes(token_id), logprob) for token_id, logprob in top)


@contextmanager
def _explained_losses() -> Iterator[None]:
    """Say of a request that was given up whether the swarm was full or failing."""
    try:
        yield
    except SessionLost as error:
        if RefusalReason.BUSY in str(error):
            raise BackendBusy(retry_after_s=BUSY_RETRY_S) from error
        raise GenerationFailed("Every route that was tried failed.") from error


def _make_sampling(request: GenerateRequest) -> Sampling:
    wanted = request.sampling
    return Sampling(
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        repetition_penalty=wanted.repetition_penalty,
        seed=secrets.randbits(SEED_BITS) if wanted.seed is None else wanted.seed,
        top_logprobs=request.alternatives or 0,
    )


def make_route(trace: Trace, *, with_times: bool) -> Route:
    """Return a trace's route; ``with_times`` adds each hop's median time of a step."""
    times = _compute_step_ms(trace) if with_times else [None] * len(trace.route)
    return tuple(
        Hop(str(hop.peer_id), hop.span.start, hop.span.end, step_ms)
        for hop, step_ms in zip(trace.route, times, strict=True)
    )


def _compute_step_ms(trace: Trace) -> list[float | None]:
    hops = len(trace.route)
    # The last entry of a step is the whole of it; steps of an earlier route have other lengths.
    steps = [step[:hops] for step in trace.hop_times_us if len(step) == hops + 1]
    if not steps:
        return [None] * hops
    return [median(column) / MICROSECONDS_PER_MILLISECOND for column in zip(*steps, strict=True)]
