"""``POST /v1/messages`` and ``/v1/messages/count_tokens``, in Anthropic's shape.

A request becomes a chat request, so that both endpoints honour and refuse alike. An answer becomes
blocks: texts, and the uses of tools.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.anthropic_requests import translate
from mesh.api.anthropic_schemas import (
    AnthropicErrorReply,
    CountReply,
    CountRequest,
    MessageReply,
    MessagesRequest,
)
from mesh.api.chat import ChatPlan, plan_chat
from mesh.api.chat_answer import AnswerStep, run_chat
from mesh.api.disconnect import run_while_connected
from mesh.api.error_shapes import make_anthropic_error
from mesh.api.gateway import (
    Gateway,
    find_model,
    get_caller,
    get_gateway,
    make_route_header,
    make_trace,
    require_json,
    wants_receipt,
)
from mesh.api.openapi import describe_errors, describe_stream
from mesh.api.sse import StreamShape, respond_with_stream, write_event
from mesh.api.tokenization import encode_chat_request

INVALID_JSON = "INVALID_JSON"
"""Under this name a model's arguments are passed on that are no JSON object, as Anthropic says."""
STREAM = StreamShape(
    write=lambda event: write_event(event, name=event["type"]),
    write_error=lambda problem: write_event(make_anthropic_error(problem), name="error"),
)
ERRORS = describe_errors(AnthropicErrorReply)
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

router = APIRouter(tags=["anthropic"], dependencies=[Depends(require_json)])


@router.post(
    "/v1/messages",
    response_model=MessageReply,
    responses={**ERRORS, 200: describe_stream("With `stream` Anthropic's named events.")},
    summary="Answer a conversation, in Anthropic's shape",
)
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """Answer in one piece, or as named server-sent events with ``stream``."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.ANTHROPIC)
    plan = await plan_chat(
        gateway,
        translate(body),
        caller=get_caller(request),
        has_receipt=wants_receipt(request),
    )
    answer = _Answer(plan)
    if body.stream:
        events = _stream(gateway, answer)
        return await respond_with_stream(gateway, request, events, shape=STREAM)
    reply = await run_while_connected(request, _collect(gateway, answer))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


@router.post(
    "/v1/messages/count_tokens",
    response_model=CountReply,
    responses=ERRORS,
    summary="Count a conversation's tokens, in Anthropic's shape",
)
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """Return how many tokens the prompt of a message would have."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.ANTHROPIC)
    model = await find_model(gateway.backend, body.model)
    prompt_ids = await encode_chat_request(gateway, translate(body), model)
    return JSONResponse({"input_tokens": len(prompt_ids)})


@dataclass(slots=True)
class _Answer:
    """What one message has so far: its blocks in order, as events change them.

    A use of a tool keeps its arguments as text until it is closed.
    """

    plan: ChatPlan
    message_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    blocks: list[dict[str, Any]] = field(default_factory=list)
    arguments: str = ""
    is_open: bool = False

    def take(self, step: AnswerStep) -> Iterator[dict[str, Any]]:
        """Yield the events of one step."""
        for delta in step.deltas:
            for call in delta.get("tool_calls", ()):
                yield from self._take_call(call)
            if text := delta.get("content"):
                yield from self._take_text(text)

    def _take_text(self, text: str) -> Iterator[dict[str, Any]]:
        if not self.is_open or self.blocks[-1]["type"] != "text":
            yield from self.close_block()
            yield self._open({"type": "text", "text": ""})
        self.blocks[-1]["text"] += text
        yield self._make_delta({"type": "text_delta", "text": text})

    def _take_call(self, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if "id" in call:
            yield from self.close_block()
            use_id = call["id"].replace("call_", "toolu_", 1)
            name = call["function"]["name"]
            yield self._open({"type": "tool_use", "id": use_id, "name": name, "input": {}})
            return
        text = call["function"]["arguments"]
        self.arguments += text
        yield self._make_delta({"type": "input_json_delta", "partial_json": text})

    def _open(self, block: dict[str, Any]) -> dict[str, Any]:
        self.blocks.append(block)
        self.is_open, self.arguments = True, ""
        place = len(self.blocks) - 1
        return {"type": "content_block_start", "index": place, "content_block": {**block}}

    def _make_delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    def close_block(self) -> Iterator[dict[str, Any]]:
        """Yield the event that ends the last block, if it is open."""
        if not self.is_open:
            return
        self.is_open = False
        if self.blocks[-1]["type"] == "tool_use":
            self.blocks[-1]["input"] = _read_input(self.arguments)
        yield {"type": "content_block_stop", "index": len(self.blocks) - 1}

    def describe(self, step: AnswerStep) -> dict[str, Any]:
        """Return the message as it is at a step."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.plan.body.model,
            "content": [*self.blocks],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.count(step),
        }

    def count(self, step: AnswerStep) -> dict[str, int]:
        """Return Anthropic's usage object, whose three counts of the input add up to the prompt."""
        prompt, cached = self.plan.prompt_tokens, step.cached_tokens
        if cached is None:
            return {"input_tokens": prompt, "output_tokens": step.usage_tokens}
        return {
            "input_tokens": prompt - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": step.usage_tokens,
        }


def _read_input(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {INVALID_JSON: arguments}


def _make_end(step: AnswerStep) -> dict[str, Any]:
    """Return why the answer ended. A sequence that the caller named goes before the model's end."""
    reason = _STOP_REASONS[step.reason or "stop"]
    if step.stop is not None and reason == "end_turn":
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": step.stop}


async def _stream(gateway: Gateway, answer: _Answer) -> AsyncGenerator[dict[str, Any], None]:
    is_started = False
    async with aclosing(run_chat(gateway, answer.plan)) as steps:
        async for step in steps:
            if not is_started:
                is_started = True
                trace = make_trace(step.trace)
                yield {"type": "message_start", "message": answer.describe(step), "mesh": trace}
            for event in answer.take(step):
                yield event
            if step.reason is not None:
                for event in answer.close_block():
                    yield event
                yield {
                    "type": "message_delta",
                    "delta": _make_end(step),
                    "usage": answer.count(step),
                    "mesh": make_trace(step.trace),
                }
    yield {"type": "message_stop"}


async def _collect(gateway: Gateway, answer: _Answer) -> dict[str, Any]:
    async with aclosing(run_chat(gateway, answer.plan)) as steps:
        async for step in steps:
            for _ in answer.take(step):
                pass
    for _ in answer.close_block():
        pass
    message = answer.describe(step)
    return {**message, **_make_end(step), "mesh": make_trace(step.trace)}
