"""What callers of ``/v1/responses`` write, and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mesh.api.limits import MAX_MESSAGES, MAX_TEMPERATURE
from mesh.api.replies import MeshTrace
from mesh.api.schemas import (
    MAX_TOOLS,
    AnswerLength,
    Body,
    JsonSchema,
    ModelName,
    ObjectFormat,
    Text,
    TextFormat,
    ToolName,
)

CallId = Annotated[str, Field(min_length=1, max_length=256)]
MAX_METADATA = 16


class InputPart(Body):
    type: Literal["input_text", "output_text", "text"]
    text: Text


class InputMessage(Body):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[InputPart]


class FunctionCallItem(Body):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: Text


class FunctionOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Text


class ReasoningPart(Body):
    type: Literal["reasoning_text", "summary_text"]
    text: Text


class ReasoningItem(Body):
    """A thought of an earlier answer; what of it is encrypted elsewhere is not read."""

    type: Literal["reasoning"]
    summary: list[ReasoningPart] | None = None
    content: list[ReasoningPart] | None = None

    def get_text(self) -> str:
        """Return the thought, or else its summary."""
        return "".join(part.text for part in self.content or self.summary or ())


class FunctionTool(Body):
    type: Literal["function"]
    name: ToolName
    description: Text | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class NamedFunctionTool(Body):
    type: Literal["function"]
    name: ToolName


class FlatSchemaFormat(Body):
    type: Literal["json_schema"]
    name: ToolName
    description: Text | None = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    format: (
        Annotated[TextFormat | ObjectFormat | FlatSchemaFormat, Field(discriminator="type")] | None
    ) = None


class ResponsesRequest(Body):
    model: ModelName
    input: (
        Annotated[Text, Field(min_length=1)]
        | Annotated[
            list[FunctionCallItem | FunctionOutputItem | ReasoningItem | InputMessage],
            Field(min_length=1, max_length=MAX_MESSAGES),
        ]
    )
    instructions: Text | None = None
    max_output_tokens: AnswerLength = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    tools: list[FunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=MAX_METADATA)
    user: str | None = Field(default=None, max_length=512)
    store: bool | None = Field(default=None, description="Kept only where it is true.")
    previous_response_id: str | None = Field(default=None, min_length=1, max_length=128)

    def list_items(self) -> list[dict[str, Any]]:
        """Return the input as items, a text as a user's message."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return [item.model_dump(exclude_none=True) for item in self.input]


class InputDetails(BaseModel):
    cached_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseReply(BaseModel):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage
    mesh: MeshTrace


class DeletedReply(BaseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]
