"""The interface between the gateway and what generates text.

The gateway owns this interface. ``mesh_backend.py`` satisfies it with the swarm's client, the
tests with a deterministic local generator. Everything is in tokens of the model's own tokenizer;
temperature, stop sequences and JSON shapes are the gateway's business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mesh.client.receipts import AnswerReceipt
from mesh.inference.grammar import Grammar
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Finish, Token, TracedHop

MAX_ALTERNATIVES = 20
"""Most alternatives for one position that a caller can ask for."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of the swarm. ``uncovered`` are half-open ranges of layers without a server.

    ``max_context`` is in tokens, prompt and answer together; ``created_s`` is a Unix time.
    ``embedding_size`` is how many numbers describe a text, 0 where none do.
    """

    model_id: str
    created_s: int
    max_context: int
    num_layers: int
    uncovered: tuple[tuple[int, int], ...] = ()
    has_chat_template: bool = True
    chat_template: str | None = None
    embedding_size: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every layer has a server."""
        return not self.uncovered


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn; ``role`` is ``system``, ``user``, ``assistant`` or ``tool``.

    ``tool_calls`` are those of an assistant's turn, in OpenAI's form but for the arguments: an
    object where they are one. A tool's turn says which call it answers. ``reasoning`` is what the
    assistant thought.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    def to_template(self) -> dict[str, Any]:
        """Return the turn as chat templates read it."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        if self.reasoning is not None:
            turn["reasoning_content"] = self.reasoning
        return turn


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as the model's template is to render it.

    ``tools`` are functions in OpenAI's form, for a template that takes them; ``options`` are
    further variables of the template, such as Qwen's ``enable_thinking``. Special tokens in any of
    them are text where ``split_special_tokens``. ``continue_final_message``: the prompt ends with
    the last message, which the answer goes on with.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    split_special_tokens: bool = True


Route = tuple[TracedHop, ...]


@dataclass(frozen=True, slots=True)
class Routed:
    """A route was chosen. Comes before the first token, and again after each re-route.

    ``cached_tokens`` of the prompt no range of the first route computed again; None if that is not
    told. ``refills`` and ``replays`` are the Trace's of the answer so far.
    """

    route: Route
    cached_tokens: int | None = None
    refills: int = 0
    replays: int = 0


@dataclass(frozen=True, slots=True)
class PromptScored:
    """The prompt's tokens with their log probabilities; only if ``score_prompt`` was asked."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Generated:
    """New tokens, in order; an end-of-text token, its ``finish`` STOP, may be the last."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last piece of every generation. ``route`` carries the measured hop times.

    ``stop`` is the stop sequence that ended the text, if one did: the gateway's own business.
    """

    reason: Finish
    route: Route = ()
    stop: str | None = None


Piece = Routed | PromptScored | Generated | Finished


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One answer to one prompt.

    ``max_new_tokens`` may be 0 when only the prompt's scores are wanted. ``alternatives`` None
    means that no log probabilities are needed, 0 only those of the chosen tokens. ``caller`` is who
    asks: hosters reuse what they computed of a prompt for the same caller only. The stop tokens of
    ``sampling`` come beside the model's own, which ``ignore_eos`` leaves out. A ``receipt`` is
    complete once the backend's generator has ended or was closed.
    """

    model_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = False
    alternatives: int | None = None
    score_prompt: bool = False
    caller: str = ""
    receipt: AnswerReceipt | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text, and the route that the last of them took."""

    vectors: tuple[tuple[float, ...], ...]
    route: Route


class Backend(Protocol):
    """Generating text. Methods raise mesh.errors and mesh.api.errors, nothing else."""

    async def list_models(self) -> Sequence[ServedModel]:
        """Return the known models as they are now; quick, from what is known already."""
        ...

    async def encode(
        self,
        model_id: str,
        text: str,
        *,
        split_special_tokens: bool = False,
        add_special_tokens: bool = True,
    ) -> tuple[int, ...]:
        """Return the prompt's token ids, with the special tokens that the model expects.

        Those in the text are text where ``split_special_tokens``. Raises PromptTooLong at once for
        what no context has room for.
        """
        ...

    async def decode(self, model_id: str, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones by their names.

        Raises InvalidRequest(``tokens``) for an unknown id.
        """
        ...

    async def encode_chat(self, model_id: str, prompt: ChatPrompt) -> tuple[int, ...]:
        """Render the model's chat template. Raises InvalidRequest where there is none."""
        ...

    async def check_grammar(self, model_id: str, grammar: Grammar) -> None:
        """Compile a grammar. Raises InvalidRequest(``grammar``) with what is wrong with it."""
        ...

    async def describe(self, model_id: str, token_ids: Sequence[int]) -> tuple[Token, ...]:
        """Return the texts of tokens. Raises InvalidRequest(``prompt``) for an unknown id."""
        ...

    async def embed(self, model_id: str, texts: Sequence[Sequence[int]]) -> Embeddings:
        """Return the mean of each text's last hidden states over its tokens.

        Raises NoRoute, BackendBusy, InvalidRequest or GenerationFailed.
        """
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield Routed, then the tokens as they come, then Finished.

        PromptScored, where it is asked for, comes before any token.
        Closing the generator frees the cache on every hop. Raises NoRoute, BackendBusy,
        InvalidRequest or GenerationFailed, from the first step or from any later one.
        """
        ...
