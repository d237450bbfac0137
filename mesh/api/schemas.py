"""What callers write, parsed once. Unknown fields are ignored, as OpenAI does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mesh.api.backend import MAX_ALTERNATIVES
from mesh.api.limits import (
    DEFAULT_ANSWER_TOKENS,
    MAX_CHOICES,
    MAX_GENERATIONS_PER_REQUEST,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOP_SEQUENCES,
    MAX_TEMPERATURE,
)

MAX_TOKEN_ID = (1 << 31) - 1
MAX_INT64 = (1 << 63) - 1
MAX_NEW_TOKENS = 1 << 24
MAX_TOP_K = 1 << 24
MAX_PENALTY = 10.0


def _accept_whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is the integer 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_unicode(text: str) -> str:
    """JSON can spell half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("this is not Unicode text") from None
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]
Integer = Annotated[int, BeforeValidator(_accept_whole)]
ModelName = Annotated[str, Field(min_length=1, max_length=512)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = StopText | Annotated[list[StopText], Field(max_length=MAX_STOP_SEQUENCES)]
TokenId = Annotated[Integer, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Seed = Annotated[Integer, Field(ge=-MAX_INT64 - 1, le=MAX_INT64)]
TokenCount = Annotated[Integer, Field(ge=1, le=MAX_NEW_TOKENS)]


class Body(BaseModel):
    """A JSON body: strict types, finite numbers, unknown fields kept aside."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    def get_extras(self) -> dict[str, Any]:
        """Return the fields that this gateway has no use for."""
        return self.model_extra or {}


class StreamOptions(Body):
    include_usage: bool | None = None


class SamplingFields(Body):
    """What chat and legacy completions share. ``top_k`` and ``repetition_penalty`` are ours."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Integer | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: Stop | None = None
    seed: Seed | None = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Integer | None = Field(default=None, ge=-1, le=MAX_TOP_K)
    repetition_penalty: float | None = Field(default=None, gt=0, le=MAX_PENALTY)
    user: str | None = Field(default=None, max_length=512)

    def get_stops(self) -> tuple[str, ...]:
        """Return the stop sequences."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None

    def get_text(self) -> str:
        """Return the content as one text."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


AnswerLength = Annotated[
    TokenCount | None,
    Field(
        description=(
            "Longest answer in tokens; `max_completion_tokens` counts before `max_tokens`. Without "
            f"either: {DEFAULT_ANSWER_TOKENS}, or what the context leaves if that is less. An "
            "answer that reaches it has the finish reason `length`."
        )
    ),
]


class ChatRequest(SamplingFields):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: AnswerLength = None
    max_completion_tokens: AnswerLength = None
    logprobs: bool | None = None
    top_logprobs: Integer | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)


class CompletionRequest(SamplingFields):
    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, max_length=MAX_GENERATIONS_PER_REQUEST),
        ]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_GENERATIONS_PER_REQUEST)]
    )
    max_tokens: Integer | None = Field(default=None, ge=0, le=MAX_NEW_TOKENS)
    echo: bool | None = None
    logprobs: Integer | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)

    def get_prompts(self) -> list[str | list[int]]:
        """Return every prompt of the request, as text or as token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [entry for entry in prompt if not isinstance(entry, int)]


class InputRequest(Body):
    """``POST /input``: a prompt and arguments of transformers' ``generate``, side by side."""

    prompt: str = Field(min_length=1)
    model: ModelName | None = None
    seed: Seed | None = None
    max_new_tokens: TokenCount | None = None
    max_length: TokenCount | None = None
    do_sample: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Integer | None = Field(default=None, ge=0, le=MAX_TOP_K)
    repetition_penalty: float | None = Field(default=None, gt=0, le=MAX_PENALTY)
    num_return_sequences: Integer | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop_strings: Stop | None = None
