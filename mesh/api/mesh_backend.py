"""The gateway's backend over the swarm's client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

from mesh.api.backend import (
    ChatPrompt,
    Embeddings,
    Finished,
    Generated,
    GenerateRequest,
    Piece,
    PromptScored,
    Routed,
    ServedModel,
)
from mesh.api.errors import BackendBusy, GenerationFailed
from mesh.client.client import MeshClient
from mesh.client.grammars import make_grammar_compiler
from mesh.client.hidden_text import HiddenText
from mesh.client.route_search import RoutingOptions
from mesh.errors import InvalidRequest, MeshError, NoRoute, SessionLost
from mesh.inference.grammar import Grammar
from mesh.inference.grammar_compiler import BadGrammar
from mesh.inference.refusals import RefusalReason
from mesh.inference.sampling import MAX_STOP_TOKENS
from mesh.inference.tokens import Finish, Token, TracedHop

REFRESH_S = 5.0
CHECK_S = 2.0
BUSY_RETRY_S = 5

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
        self._grammars = make_grammar_compiler(client.tokenizer, client.config)

    async def keep_fresh(self, *, period_s: float = REFRESH_S) -> None:
        """Follow who serves what, and who answers, until cancelled: a task of the gateway's group.

        A hoster that freezes is missed by ``find_uncovered``, and so by ``/readyz``, soon after.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_directory_fresh(period_s))
            tasks.create_task(self._keep_asking(min(period_s, CHECK_S)))

    async def _keep_directory_fresh(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await self._client.refresh()
                await self._client.directory.measure()
            except MeshError as error:
                logger.warning("the directory could not be refreshed: %s", type(error).__name__)

    async def _keep_asking(self, period_s: float) -> None:
        while True:
            servers = self._client.directory.list_route_servers()
            await self._client.watch.check(server.peer_id for server in servers)
            await asyncio.sleep(period_s)

    async def list_models(self) -> Sequence[ServedModel]:
        """Return the network's model, with the layers that have no server now."""
        config, tokenizer = self._client.config, self._client.tokenizer
        return (
            ServedModel(
                model_id=self._model_id,
                created_s=self._created_s,
                max_context=config.max_context,
                num_layers=config.num_layers,
                uncovered=self.find_uncovered(),
                has_chat_template=tokenizer.has_chat_template,
                chat_template=tokenizer.chat_template,
                embedding_size=config.hidden_size,
            ),
        )

    def find_uncovered(self) -> tuple[tuple[int, int], ...]:
        """Return the half-open ranges of layers that have no server now."""
        try:
            self._client.planner.plan(self._routing, exclude=set(), cache_tokens=0)
        except NoRoute as error:
            return error.uncovered
        return ()

    async def encode(
        self,
        model_id: str,
        text: str,
        *,
        split_special_tokens: bool = False,
        add_special_tokens: bool = True,
    ) -> tuple[int, ...]:
        """Tokenise in a thread, because a long text takes a while."""
        return await asyncio.to_thread(
            self._client.tokenizer.encode,
            text,
            split_special_tokens=split_special_tokens,
            add_special_tokens=add_special_tokens,
            max_tokens=self._client.config.max_context,
        )

    async def decode(self, model_id: str, token_ids: Sequence[int]) -> str:
        """Return the text of tokens. Raises InvalidRequest(``tokens``) for an unknown id."""
        if token_ids:
            self._client.check_vocabulary("tokens", token_ids)
        return await asyncio.to_thread(
            self._client.tokenizer.decode, token_ids, skip_special_tokens=False
        )

    async def encode_chat(self, model_id: str, prompt: ChatPrompt) -> tuple[int, ...]:
        """Render and tokenise in a thread."""
        return await asyncio.to_thread(
            self._client.tokenizer.encode_chat,
            [message.to_template() for message in prompt.messages],
            tools=prompt.tools,
            options=prompt.options,
            add_generation_prompt=prompt.add_generation_prompt,
            continue_final_message=prompt.continue_final_message,
            split_special_tokens=prompt.split_special_tokens,
            max_tokens=self._client.config.max_context,
        )

    async def check_grammar(self, model_id: str, grammar: Grammar) -> None:
        """Compile a grammar as the hosters will. Raises InvalidRequest(``grammar``)."""
        grammar.check()
        if self._grammars is None:
            raise InvalidRequest(
                "grammar", "this gateway compiles no grammars; install its extra `grammar`"
            )
        try:
            await self._grammars.start(grammar)
        except BadGrammar as error:
            raise InvalidRequest("grammar", str(error)) from error

    async def describe(self, model_id: str, token_ids: Sequence[int]) -> tuple[Token, ...]:
        """Return the tokens' texts as a stream would show them."""
        stream = self._client.tokenizer.start_stream()
        described = []
        for token_id in token_ids:
            if token_id >= self._client.config.vocab_size:
                raise InvalidRequest("prompt", f"token id {token_id} is not in the vocabulary")
            raw = self._read_bytes(token_id)
            described.append(Token(token_id, text=stream.feed(token_id), raw=raw))
        return tuple(described)

    def _read_bytes(self, token_id: int) -> bytes:
        try:
            return self._client.tokenizer.get_token_bytes(token_id)
        except IndexError:
            # Models pad their vocabulary: such a token has a number and no text.
            return b""

    async def embed(self, model_id: str, texts: Sequence[Sequence[int]]) -> Embeddings:
        """Send the texts one after the other, through one session where it lasts."""
        hidden = HiddenText(self._client, routing=self._routing)
        capacity = max(map(len, texts))
        try:
            with _explained_losses():
                vectors = [await hidden.compute_mean(text, capacity=capacity) for text in texts]
        finally:
            await hidden.close()
        route = tuple(
            TracedHop(str(hop.peer_id), hop.span.start, hop.span.end) for hop in hidden.route
        )
        return Embeddings(tuple(tuple(vector.tolist()) for vector in vectors), route)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Stream one answer of the swarm. Stop sequences are the gateway's business."""
        if request.score_prompt:
            yield await self._score_prompt(request)
        if request.max_new_tokens == 0:
            yield Finished(Finish.LENGTH)
            return
        answer = self._client.generate(
            request.prompt_ids,
            max_new_tokens=request.max_new_tokens,
            sampling=replace(
                request.sampling,
                top_logprobs=request.alternatives or 0,
                stop_token_ids=self._list_stop_tokens(request),
            ),
            ignore_eos=request.ignore_eos,
            routing=self._routing,
            user=request.caller,
            receipt=request.receipt,
        )
        with _explained_losses():
            async with aclosing(self._read_tokens(answer, request)) as pieces:
                async for piece in pieces:
                    yield piece

    def _list_stop_tokens(self, request: GenerateRequest) -> tuple[int, ...]:
        own = () if request.ignore_eos else self._client.config.eos_token_ids
        return tuple(dict.fromkeys((*own, *request.sampling.stop_token_ids)))[:MAX_STOP_TOKENS]

    async def _score_prompt(self, request: GenerateRequest) -> PromptScored:
        wanted = request.alternatives or 0
        described = await self.describe(request.model_id, request.prompt_ids)
        with _explained_losses():
            scores = await self._client.score(
                request.prompt_ids, top_logprobs=wanted, routing=self._routing
            )
        scored = [
            replace(self._name(score, wanted), text=token.text)
            for token, score in zip(described[1:], scores, strict=True)
        ]
        return PromptScored((described[0], *scored))

    async def _read_tokens(
        self, answer: AsyncGenerator[Token, None], request: GenerateRequest
    ) -> AsyncGenerator[Piece, None]:
        told = Routed(())
        async with aclosing(answer):
            async for token in answer:
                trace = token.trace
                routed = Routed(trace.route, told.cached_tokens, trace.refills, trace.replays)
                if routed != told:
                    told = replace(routed, cached_tokens=trace.cached_tokens)
                    yield told
                yield Generated((self._name(token, request.alternatives),))
                if token.finish is not Finish.NOT_YET:
                    yield Finished(token.finish, token.trace.measure_route())

    def _name(self, token: Token, wanted: int | None) -> Token:
        """Add the token's bytes and those of ``wanted`` alternatives; None leaves no score."""
        raw = self._read_bytes(token.token_id)
        if wanted is None:
            return replace(token, raw=raw, logprob=None, top_logprobs=())
        alternatives = tuple(
            other._replace(raw=self._read_bytes(other.token_id))
            for other in token.top_logprobs[:wanted]
        )
        return replace(token, raw=raw, top_logprobs=alternatives)


@contextmanager
def _explained_losses() -> Iterator[None]:
    """Say of a request that was given up whether the swarm was full or failing."""
    try:
        yield
    except SessionLost as error:
        if error.reason is RefusalReason.BUSY:
            raise BackendBusy(retry_after_s=BUSY_RETRY_S) from error
        raise GenerationFailed("Every route that was tried failed.") from error
