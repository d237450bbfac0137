"""``POST /tokenize`` and ``POST /detokenize``, in vLLM's shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import ServedModel
from mesh.api.chat_tools import make_prompt, plan_tools
from mesh.api.gateway import Gateway, choose_model, get_gateway, require_json
from mesh.api.limits import MAX_MESSAGES
from mesh.api.openapi import ERRORS
from mesh.api.problems import Problem
from mesh.api.schemas import MAX_TOOLS, Body, ChatRequest, Message, ModelName, Text, TokenId, Tool

MAX_TOKENS = 1 << 18
"""Of one request to ``/detokenize``."""

router = APIRouter(tags=["tokens"], dependencies=[Depends(require_json)])


class TokenizeRequest(Body):
    """A text, or a conversation as the model's chat template renders it; one of them."""

    model: ModelName | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = Field(
        default=None, description="True for a `prompt`; a template writes them itself."
    )
    add_generation_prompt: bool = True
    split_special_tokens: bool | None = Field(
        default=None, description="Without it true for messages and false for a `prompt`."
    )
    return_token_strs: bool | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=64)


class TokenizeReply(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Body):
    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)]


class DetokenizeReply(BaseModel):
    prompt: str


@router.post(
    "/tokenize",
    response_model=TokenizeReply,
    responses=ERRORS,
    summary="Turn a text or a conversation into tokens",
)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Return the token ids of a prompt, or of messages as the model is given them."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.TOKENIZE)
    if (body.prompt is None) == (body.messages is None):
        raise Problem(400, "Send 'prompt' or 'messages'.", param="prompt", code="invalid_value")
    model = await choose_model(gateway.backend, body.model)
    token_ids = await _encode(gateway, body, model)
    names = None
    if body.return_token_strs:
        described = await gateway.backend.describe(model.model_id, token_ids)
        names = [token.name for token in described]
    return JSONResponse(
        {
            "count": len(token_ids),
            "max_model_len": model.max_context,
            "tokens": list(token_ids),
            "token_strs": names,
        }
    )


async def _encode(gateway: Gateway, body: TokenizeRequest, model: ServedModel) -> tuple[int, ...]:
    if body.prompt is not None:
        return await gateway.backend.encode(
            model.model_id,
            body.prompt,
            add_special_tokens=body.add_special_tokens is not False,
            split_special_tokens=bool(body.split_special_tokens),
        )
    if body.add_special_tokens:
        raise Problem(
            400, "The chat template writes the special tokens.", param="add_special_tokens"
        )
    chat = ChatRequest.model_construct(
        model=model.model_id,
        messages=body.messages or [],
        tools=body.tools,
        chat_template_kwargs=body.chat_template_kwargs,
        split_special_tokens=body.split_special_tokens,
    )
    return await encode_chat_request(
        gateway, chat, model, add_generation_prompt=body.add_generation_prompt
    )


async def encode_chat_request(
    gateway: Gateway, body: ChatRequest, model: ServedModel, *, add_generation_prompt: bool = True
) -> tuple[int, ...]:
    """Return the tokens of a chat request's prompt. Raises Problem or InvalidRequest."""
    prompt = make_prompt(body, plan_tools(body, model))
    return await gateway.backend.encode_chat(
        model.model_id, replace(prompt, add_generation_prompt=add_generation_prompt)
    )


@router.post(
    "/detokenize",
    response_model=DetokenizeReply,
    responses=ERRORS,
    summary="Turn tokens into a text",
)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """Return the text of token ids, special tokens by their names."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.DETOKENIZE)
    model = await choose_model(gateway.backend, body.model)
    return JSONResponse({"prompt": await gateway.backend.decode(model.model_id, body.tokens)})
