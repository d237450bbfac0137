"""What callers of ``/v1/messages`` write, and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mesh.api.limits import MAX_MESSAGES, MAX_STOP_SEQUENCES, MAX_TEMPERATURE
from mesh.api.replies import MeshTrace
from mesh.api.schemas import (
    MAX_TOOLS,
    MAX_TOP_K,
    Body,
    Integer,
    JsonSchema,
    ModelName,
    StopText,
    Text,
    TokenCount,
    ToolName,
)

MAX_BLOCKS = 2048
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class TextBlock(Body):
    type: Literal["text"]
    text: Text


class ToolUseBlock(Body):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: dict[str, Any]


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Text | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS)] | None = None
    is_error: bool | None = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]
TextContent = Text | Annotated[list[TextBlock], Field(max_length=MAX_BLOCKS)]


class AnthropicMessage(Body):
    role: Literal["user", "assistant"]
    content: Text | Annotated[list[Block], Field(max_length=MAX_BLOCKS)]


class AnthropicTool(Body):
    type: Literal["custom"] | None = None
    name: ToolName
    description: Text | None = None
    input_schema: JsonSchema


class FreeChoice(Body):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Body):
    type: Literal["tool"]
    name: ToolName
    disable_parallel_tool_use: bool | None = None


class SchemaOutput(Body):
    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


class OutputConfig(Body):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    format: SchemaOutput | None = None


class CountRequest(Body):
    """What a prompt consists of."""

    model: ModelName
    messages: list[AnthropicMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: TextContent | None = None
    tools: list[AnthropicTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Annotated[FreeChoice | NamedChoice, Field(discriminator="type")] | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    max_tokens: TokenCount
    stream: bool | None = None
    stop_sequences: list[StopText] | None = Field(default=None, max_length=MAX_STOP_SEQUENCES)
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Integer | None = Field(default=None, ge=0, le=MAX_TOP_K)


class AnthropicUsage(BaseModel):
    """``input_tokens`` are those that were not read from the cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class MessageReply(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: AnthropicUsage
    mesh: MeshTrace


class CountReply(BaseModel):
    input_tokens: int


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str


class AnthropicErrorReply(BaseModel):
    type: Literal["error"]
    error: AnthropicErrorDetail
