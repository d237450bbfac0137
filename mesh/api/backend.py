"""The interface between the gateway and what generates text.

The gateway owns this interface. ``mesh_backend.py`` satisfies it with the swarm's client, the
tests with a deterministic local generator. Everything is in tokens of the model's own tokenizer;
temperature, stop sequences and JSON shapes are the gateway's business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

MAX_ALTERNATIVES = 20
"""Most alternatives for one position that a caller can ask for."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of the swarm. ``uncovered`` are half-open ranges of layers without a server.

    ``max_context`` is in tokens, prompt and answer together; ``created_s`` is a Unix time.
    """

    model_id: str
    created_s: int
    max_context: int
    num_layers: int
    uncovered: tuple[tuple[int, int], ...] = ()
    has_chat_template: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether every layer has a server."""
        return not self.uncovered


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


def name_token(raw: bytes) -> str:
    """Return a token's bytes as text, and part of a character as ``bytes:\\xe2\\x82``.

    The same bytes have one name in every position, which evaluation harnesses compare.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come. ``raw`` are its own bytes, possibly part of a character."""

    raw: bytes
    logprob: float

    @property
    def name(self) -> str:
        """The token in words; see name_token."""
        return name_token(self.raw)


@dataclass(frozen=True, slots=True)
class Token:
    """One token. ``text`` is what it adds to the text so far, possibly nothing.

    The texts of all tokens, joined, are the text: a character that takes three tokens arrives
    with its last. ``raw`` are the token's own bytes, a special token's name among them.
    ``logprob`` is None where it was not computed, and for a prompt's first token.
    ``alternatives`` are sorted, the most likely first. ``is_end`` marks the token with which the
    model ended its text: it has a score and no text.
    """

    token_id: int
    text: str
    raw: bytes = b""
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    is_end: bool = False

    @property
    def name(self) -> str:
        """The token in words; see name_token."""
        return name_token(self.raw)


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a route and the half-open range of layers that it runs.

    ``step_ms`` is its share of one decode step in milliseconds, None before it is measured.
    """

    peer_id: str
    start: int
    end: int
    step_ms: float | None = None


Route = tuple[Hop, ...]


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Routed:
    """A route was chosen. Comes before the first token, and again after each re-route."""

    route: Route


@dataclass(frozen=True, slots=True)
class PromptScored:
    """The prompt's tokens with their log probabilities; only if ``score_prompt`` was asked."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Generated:
    """New tokens, in order; an end-of-text token, marked as such, may be the last."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The last piece of every generation. ``route`` carries the measured hop times."""

    reason: FinishReason
    route: Route = ()


Piece = Routed | PromptScored | Generated | Finished


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; ``top_k`` 0 is all.

    The same seed, prompt and weights give the same tokens; None draws a fresh seed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One answer to one prompt.

    ``max_new_tokens`` may be 0 when only the prompt's scores are wanted. ``alternatives`` None
    means that no log probabilities are needed, 0 only those of the chosen tokens.
    """

    model_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    alternatives: int | None = None
    score_prompt: bool = False


class Backend(Protocol):
    """Generating text. Methods raise mesh.errors and mesh.api.errors, nothing else."""

    async def list_models(self) -> Sequence[ServedModel]:
        """Return the known models as they are now; quick, from what is known already."""
        ...

    async def encode(self, model_id: str, text: str) -> tuple[int, ...]:
        """Return the prompt's token ids, with the special tokens that the model expects."""
        ...

    async def encode_chat(self, model_id: str, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Render the model's chat template. Raises InvalidRequest where there is none."""
        ...

    async def describe(self, model_id: str, token_ids: Sequence[int]) -> tuple[Token, ...]:
        """Return the texts of tokens. Raises InvalidRequest(``prompt``) for an unknown id."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Yield Routed, then the tokens as they come, then Finished.

        PromptScored, where it is asked for, comes before any token.
        Closing the generator frees the cache on every hop. Raises NoRoute, BackendBusy,
        InvalidRequest or GenerationFailed, from the first step or from any later one.
        """
        ...
