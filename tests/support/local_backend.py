"""A deterministic backend without a network: a real tokenizer, canned answers, faults on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mesh.api.backend import (
    ChatMessage,
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
from mesh.errors import InvalidRequest, NoRoute
from mesh.inference.grammar import Grammar
from mesh.inference.tokens import Alternative, Finish, Token, TracedHop

MODEL = "mesh/echo"
CONTEXT = 512
EOS = "<|end|>"
END = 0
ANSWER = (
    "An epoch has four phases: propose, commit, reveal, score. Größe zählt nicht, 数 auch nicht. "
    "Every hoster commits before anyone reveals, so nobody can copy. 🐟 That is all."
)
ROUTE = (TracedHop("12D3KooWFirst", 0, 3, 1.25), TracedHop("12D3KooWSecond", 3, 6, 2.5))
OTHER_ROUTE = (TracedHop("12D3KooWThird", 0, 6, 4.0),)


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer, trained on the answer in a moment."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([ANSWER.encode("ascii", "ignore").decode()], trainer)
    return tokenizer


def _byte_of_unicode() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character; this is the way back."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_of_unicode()


@dataclass
class LocalBackend:
    """Answers every prompt with ANSWER, cut to the tokens asked for.

    Sampled requests (temperature above 0) shuffle it by their seed. ``fail_after`` raises
    ``failure`` after so many tokens; ``running`` counts what has not been freed. ``cached_tokens``
    is what it says that it kept of each prompt.
    """

    uncovered: tuple[tuple[int, int], ...] = ()
    failure: Exception | None = None
    fail_after: int = 0
    delay_s: float = 0.0
    reroute_after: int | None = None
    keeps_caches: bool = False
    alternates_routes: bool = False
    is_endless: bool = False
    answer: str = ANSWER
    token_padding: int = 0
    context: int = CONTEXT
    tokenizer: Tokenizer = field(default_factory=make_tokenizer)
    running: int = 0
    peak: int = 0
    requests: list[GenerateRequest] = field(default_factory=list)
    chats: list[Sequence[ChatMessage]] = field(default_factory=list)
    prompts: list[ChatPrompt] = field(default_factory=list)
    template: str | None = None
    has_template: bool = True
    embedding_size: int = 4
    embedded: list[Sequence[Sequence[int]]] = field(default_factory=list)
    bad_grammar: str | None = None
    cached_tokens: int | None = None

    async def list_models(self) -> Sequence[ServedModel]:
        return (
            ServedModel(
                MODEL,
                1_700_000_000,
                self.context,
                6,
                self.uncovered,
                has_chat_template=self.has_template,
                chat_template=self.template,
                embedding_size=self.embedding_size,
            ),
        )

    async def encode(
        self,
        model_id: str,
        text: str,
        *,
        split_special_tokens: bool = False,
        add_special_tokens: bool = True,
    ) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    async def decode(self, model_id: str, token_ids: Sequence[int]) -> str:
        if any(token_id >= self.tokenizer.get_vocab_size() for token_id in token_ids):
            raise InvalidRequest("tokens", "a token id is not in the vocabulary")
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False)

    async def encode_chat(self, model_id: str, prompt: ChatPrompt) -> tuple[int, ...]:
        self.prompts.append(prompt)
        self.chats.append(prompt.messages)
        text = "".join(f"{message.role}: {message.content}\n" for message in prompt.messages)
        return await self.encode(model_id, text + "assistant:")

    async def check_grammar(self, model_id: str, grammar: Grammar) -> None:
        grammar.check()
        if self.bad_grammar is not None:
            raise InvalidRequest("grammar", self.bad_grammar)

    async def describe(self, model_id: str, token_ids: Sequence[int]) -> tuple[Token, ...]:
        for token_id in token_ids:
            if token_id >= self.tokenizer.get_vocab_size():
                raise InvalidRequest("prompt", f"token id {token_id} is not in the vocabulary")
        return self._describe(token_ids)

    async def embed(self, model_id: str, texts: Sequence[Sequence[int]]) -> Embeddings:
        """Describe each text by its length and its first token."""
        self.embedded.append(texts)
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
            if self.failure is not None:
                raise self.failure
            vectors = tuple((float(len(text)), float(text[0]), 0.1, -0.5) for text in texts)
            return Embeddings(vectors, ROUTE)
        finally:
            self.running -= 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            if self.uncovered:
                raise NoRoute(self.uncovered)
            if self.failure is not None and self.fail_after == 0:
                raise self.failure
            is_second = len(self.requests) % 2 == 0
            route = OTHER_ROUTE if self.alternates_routes and is_second else ROUTE
            yield Routed(route, self.cached_tokens)
            async for piece in self._tokens(request):
                yield piece
        finally:
            # What a real backend does to free its caches takes a moment too.
            await asyncio.sleep(0)
            self.running -= 1

    async def _tokens(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        if request.score_prompt:
            yield PromptScored(self._score(request.prompt_ids, request, is_prompt=True))
        ids = self._choose(request)
        wanted = [*ids, END][: request.max_new_tokens]
        for place, token in enumerate(self._score(wanted, request)):
            if self.failure is not None and place == self.fail_after:
                raise self.failure
            if place == self.reroute_after:
                refills, replays = (1, 0) if self.keeps_caches else (0, 1)
                yield Routed(OTHER_ROUTE, self.cached_tokens, refills, replays)
            await asyncio.sleep(self.delay_s)
            padded = replace(token, text=token.text + " " * self.token_padding)
            yield Generated((padded,))
        reason = Finish.STOP if END in wanted else Finish.LENGTH
        yield Finished(reason, () if self.alternates_routes else self._final_route())

    def _final_route(self) -> tuple[TracedHop, ...]:
        return ROUTE if self.reroute_after is None else OTHER_ROUTE

    def _choose(self, request: GenerateRequest) -> list[int]:
        ids = list(self.tokenizer.encode(self.answer).ids)
        if self.is_endless:
            ids *= 1 + request.max_new_tokens // len(ids)
        if request.sampling.temperature > 0:
            random.Random(request.sampling.seed).shuffle(ids)
        return ids

    def _score(
        self, ids: Sequence[int], request: GenerateRequest, *, is_prompt: bool = False
    ) -> tuple[Token, ...]:
        tokens = self._describe(ids)
        if request.alternatives is None:
            return tokens
        return tuple(
            token
            if is_prompt and place == 0
            else replace(
                token,
                logprob=-0.25,
                top_logprobs=tuple(
                    Alternative(wanted, -0.25 - place_of / 4, self._raw(wanted))
                    for place_of, wanted in enumerate(
                        [token.token_id, 65, 66, 67][: request.alternatives]
                    )
                ),
            )
            for place, token in enumerate(tokens)
        )

    def _describe(self, ids: Sequence[int]) -> tuple[Token, ...]:
        tokens, pending = [], b""
        for place, token_id in enumerate(ids):
            raw = self._raw(token_id)
            pending += b"" if token_id == END else raw
            is_last = place == len(ids) - 1
            text = pending.decode("utf-8", "replace")
            if "\ufffd" in text and not is_last and len(pending) < 4:
                text = ""
            else:
                pending = b""
            finish = Finish.STOP if token_id == END else Finish.NOT_YET
            tokens.append(Token(token_id, text=text, raw=raw, finish=finish))
        return tuple(tokens)

    def _raw(self, token_id: int) -> bytes:
        name = self.tokenizer.id_to_token(token_id)
        assert name is not None
        return name.encode() if token_id == END else bytes(_BYTES[char] for char in name)
