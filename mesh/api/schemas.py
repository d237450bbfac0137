"""What callers write, parsed once. Unknown fields are ignored, as OpenAI does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mesh.api.backend import MAX_ALTERNATIVES
from mesh.api.limits import (
    DEFAULT_ANSWER_TOKENS,
    MAX_CHOICES,
    MAX_EMBEDDED_TEXTS,
    MAX_GENERATIONS_PER_REQUEST,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOP_SEQUENCES,
    MAX_TEMPERATURE,
)
from mesh.inference.grammar import MAX_GRAMMAR_BYTES
from mesh.inference.sampling import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_MIN_TOKENS,
    MAX_STOP_TOKENS,
)
from mesh.inference.sampling import MAX_PENALTY as SMALL_PENALTY

MAX_TOKEN_ID = (1 << 31) - 1
MAX_INT64 = (1 << 63) - 1
MAX_NEW_TOKENS = 1 << 24
MAX_TOP_K = 1 << 24
MAX_PENALTY = 10.0
MAX_TOOLS = 128
MAX_TOOL_NAME = 64
MAX_CHOICE_LENGTH = 4096


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
MAX_SET_TOKENS = 8192
"""So many numbers of six digits fit into a grammar."""
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


JsonSchema = dict[str, Any]
GrammarText = Annotated[Text, Field(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
GuidedChoices = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=MAX_CHOICE_LENGTH)]],
    Field(min_length=1, max_length=MAX_BIASES),
]
Penalty = Annotated[float | None, Field(ge=-SMALL_PENALTY, le=SMALL_PENALTY)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
BiasedToken = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]


class StructuredOutputs(Body):
    """vLLM's newer name for the ``guided_`` fields. Exactly one of them is given."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    json_: JsonSchema | GrammarText | None = Field(default=None, alias="json")
    regex: GrammarText | None = None
    choice: GuidedChoices | None = None
    json_object: bool | None = None


class SamplingFields(Body):
    """What chat and legacy completions share, OpenAI's fields and those of vLLM beside them."""

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
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    min_tokens: Integer | None = Field(default=None, ge=0, le=MAX_MIN_TOKENS)
    logit_bias: dict[BiasedToken, Bias] | None = Field(default=None, max_length=MAX_BIASES)
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=MAX_STOP_TOKENS - 4)
    allowed_token_ids: list[TokenId] | None = Field(default=None, max_length=MAX_SET_TOKENS)
    suppress_tokens: list[TokenId] | None = Field(default=None, max_length=MAX_SET_TOKENS)
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    split_special_tokens: bool | None = None
    prompt_logprobs: Integer | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | GrammarText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: GuidedChoices | None = None

    def get_stops(self) -> tuple[str, ...]:
        """Return the stop sequences."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _check_is_text(kind: Any) -> Any:
    if kind != "text":
        raise ValueError("only parts of type 'text' are read here, no images, audio or files")
    return kind


class TextPart(Body):
    type: Annotated[Literal["text"], BeforeValidator(_check_is_text)]
    text: Text


ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", max_length=MAX_TOOL_NAME)]


class CalledFunction(Body):
    name: ToolName
    arguments: Text


class ToolCall(Body):
    """A call that an earlier answer made."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: CalledFunction


class FunctionDefinition(Body):
    name: ToolName
    description: Text | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    name: ToolName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class SchemaFormat(Body):
    name: ToolName
    description: Text | None = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: SchemaFormat


ResponseFormat = Annotated[
    TextFormat | ObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: list[ToolCall] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(default=None, max_length=256)

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
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=64)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    separate_reasoning: bool | None = None


def list_texts(given: str | Sequence[Any]) -> list[str | list[int]]:
    """Return one text or several, each as text or as token ids."""
    if isinstance(given, str):
        return [given]
    items = [*given]
    return [items] if isinstance(items[0], int) else items


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
        return list_texts(self.prompt)


EmbeddedTexts = (
    Annotated[Text, Field(min_length=1)]
    | Annotated[
        list[Annotated[Text, Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_EMBEDDED_TEXTS),
    ]
)
"""One text or several."""


class EmbeddingsRequest(Body):
    model: ModelName
    input: (
        EmbeddedTexts
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_EMBEDDED_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Integer | None = Field(default=None, ge=1, le=MAX_INT64)
    user: str | None = Field(default=None, max_length=512)

    def get_texts(self) -> list[str | list[int]]:
        """Return every text of the request, as text or as token ids."""
        return list_texts(self.input)


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
