"""What callers of Ollama's paths write, and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mesh.api.backend import MAX_ALTERNATIVES
from mesh.api.limits import MAX_MESSAGES, MAX_TEMPERATURE
from mesh.api.schemas import (
    MAX_INT64,
    MAX_NEW_TOKENS,
    MAX_PENALTY,
    MAX_TOOLS,
    MAX_TOP_K,
    Body,
    EmbeddedTexts,
    Integer,
    JsonSchema,
    ModelName,
    Penalty,
    Seed,
    Stop,
    Text,
    Tool,
    ToolName,
)

NoImages = Annotated[list[Any], Field(max_length=0)]


class OllamaOptions(Body):
    """The options that matter here; those of loading a model are ignored."""

    num_predict: Integer | None = Field(default=None, ge=-2, le=MAX_NEW_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_k: Integer | None = Field(default=None, ge=0, le=MAX_TOP_K)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: Seed | None = None
    stop: Stop | None = None
    repeat_penalty: float | None = Field(default=None, gt=0, le=MAX_PENALTY)
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None


class OllamaRequest(Body):
    model: ModelName
    stream: bool | None = Field(default=None, description="True unless it is false.")
    format: Literal["", "json"] | JsonSchema | None = None
    options: OllamaOptions | None = None
    think: bool | Text | None = Field(
        default=None, description="Levels are refused; without it a model that thinks does."
    )
    logprobs: bool | None = None
    top_logprobs: Integer | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)


class OllamaFunction(Body):
    name: ToolName
    arguments: dict[str, Any]


class OllamaCall(Body):
    """A call that an earlier answer made; calls have no ids here."""

    function: OllamaFunction


class OllamaMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    images: NoImages | None = None
    tool_calls: list[OllamaCall] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_name: Text | None = None


class OllamaChatRequest(OllamaRequest):
    messages: list[OllamaMessage] | None = Field(default=None, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)


class OllamaGenerateRequest(OllamaRequest):
    prompt: Text | None = None
    system: Text | None = None
    raw: bool | None = Field(default=None, description="Use no chat template.")


class OllamaEmbedRequest(Body):
    model: ModelName
    input: EmbeddedTexts
    truncate: bool | None = None
    dimensions: Integer | None = Field(default=None, ge=1, le=MAX_INT64)


class OllamaEmbedReply(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaShowRequest(Body):
    model: ModelName


class OllamaTokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class OllamaLogprob(OllamaTokenLogprob):
    top_logprobs: list[OllamaTokenLogprob] | None = None


class OllamaAnswer(BaseModel):
    """The last object of a stream, or the only one. Durations are in nanoseconds."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load"]
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[OllamaLogprob] | None = None


class OllamaCallReply(BaseModel):
    function: dict[str, Any]


class OllamaMessageReply(BaseModel):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[OllamaCallReply] | None = None


class OllamaChatReply(OllamaAnswer):
    message: OllamaMessageReply


class OllamaGenerateReply(OllamaAnswer):
    response: str
    thinking: str | None = None


class OllamaDetails(BaseModel):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    name: str
    model: str
    modified_at: str
    details: OllamaDetails


class OllamaTags(BaseModel):
    models: list[OllamaModel]


class OllamaShowReply(BaseModel):
    modified_at: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaVersion(BaseModel):
    version: str


class OllamaErrorReply(BaseModel):
    error: str
