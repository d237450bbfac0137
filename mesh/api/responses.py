"""``POST /v1/responses``: OpenAI's newer form of the same, without state kept between requests.

A request becomes a chat request, so that both doors honour and refuse alike; an answer becomes
items: a message, and the calls of functions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.backend import Finished, Generated
from mesh.api.chat import ChatPlan, plan_chat, start_jobs
from mesh.api.chat_tools import ToolReader
from mesh.api.disconnect import run_while_connected
from mesh.api.gateway import (
    Gateway,
    get_caller,
    get_gateway,
    make_id,
    make_route_header,
    make_trace,
    require_json,
    wants_receipt,
)
from mesh.api.openapi import STREAM_OR_JSON
from mesh.api.response_schemas import (
    FunctionCallItem,
    FunctionOutputItem,
    InputMessage,
    NamedFunctionTool,
    ResponseReply,
    ResponsesRequest,
)
from mesh.api.schemas import ChatRequest
from mesh.api.sse import respond_with_stream
from mesh.inference.tokens import join_texts

router = APIRouter(tags=["responses"], dependencies=[Depends(require_json)])


@router.post(
    "/v1/responses",
    response_model=ResponseReply,
    responses=STREAM_OR_JSON,
    summary="Answer an input, in items",
)
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """Answer in one piece, or as typed server-sent events with ``stream``."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.RESPONSES)
    plan = await plan_chat(
        gateway,
        make_chat_request(body),
        caller=get_caller(request),
        has_receipt=wants_receipt(request),
    )
    answer = _Answer(body, plan)
    if body.stream:
        return await respond_with_stream(gateway, request, _stream(gateway, answer))
    reply = await run_while_connected(request, _collect(gateway, answer))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


def make_chat_request(body: ResponsesRequest) -> ChatRequest:
    """Return the same as a chat request."""
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": [*_make_messages(body)],
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "parallel_tool_calls": body.parallel_tool_calls,
        "user": body.user,
        "response_format": None if body.text is None else _make_format(body.text.format),
        "tools": [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in body.tools or ()
        ],
    }
    choice = body.tool_choice
    if isinstance(choice, NamedFunctionTool):
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = choice
    try:
        return ChatRequest.model_validate({k: v for k, v in fields.items() if v not in (None, [])})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _make_format(wanted: Any) -> dict[str, Any] | None:
    if wanted is None:
        return None
    told: dict[str, Any] = wanted.model_dump(by_alias=True, exclude_none=True)
    if told["type"] != "json_schema":
        return told
    kind = told.pop("type")
    return {"type": kind, "json_schema": told}


def _make_messages(body: ResponsesRequest) -> Iterator[dict[str, Any]]:
    """Yield the turns; calls that follow each other are one turn of the assistant."""
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    calls: list[dict[str, Any]] = []
    for item in body.input:
        if isinstance(item, FunctionCallItem):
            called = {"name": item.name, "arguments": item.arguments}
            calls.append({"id": item.call_id, "type": "function", "function": called})
            continue
        if calls:
            yield {"role": "assistant", "tool_calls": calls}
            calls = []
        if isinstance(item, FunctionOutputItem):
            yield {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
        else:
            yield {"role": item.role, "content": _read_text(item)}
    if calls:
        yield {"role": "assistant", "tool_calls": calls}


def _read_text(item: InputMessage) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(part.text for part in item.content)


def _make_item_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


@dataclass(slots=True)
class _Answer:
    """What one response has so far: its items in order, as events change them."""

    body: ResponsesRequest
    plan: ChatPlan
    response_id: str = field(default_factory=lambda: make_id("resp").replace("-", "_"))
    created_s: int = field(default_factory=lambda: int(time.time()))
    items: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    reason: str = ""

    def take(self, delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of one delta of a chat answer."""
        for call in delta.get("tool_calls", ()):
            yield from self._take_call(call)
        if text := delta.get("content"):
            yield from self._take_text(text)

    def _take_text(self, text: str) -> Iterator[dict[str, Any]]:
        if not self.items or self.items[-1]["type"] != "message":
            yield from self.close_item()
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: dict[str, Any] = {
                "type": "message",
                "id": _make_item_id("msg"),
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            yield self._add(item)
            item["content"].append(part)
            yield {**self._locate("response.content_part.added"), "content_index": 0, "part": part}
        self.items[-1]["content"][0]["text"] += text
        yield {
            **self._locate("response.output_text.delta"),
            "content_index": 0,
            "delta": text,
            "logprobs": [],
        }

    def _take_call(self, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "id" in call:
            yield from self.close_item()
            yield self._add(
                {
                    "type": "function_call",
                    "id": _make_item_id("fc"),
                    "call_id": call["id"],
                    "name": call["function"]["name"],
                    "arguments": "",
                    "status": "in_progress",
                }
            )
            return
        text = call["function"]["arguments"]
        self.items[-1]["arguments"] += text
        yield {**self._locate("response.function_call_arguments.delta"), "delta": text}

    def _add(self, item: dict[str, Any]) -> dict[str, Any]:
        self.items.append(item)
        place = len(self.items) - 1
        return {"type": "response.output_item.added", "output_index": place, "item": {**item}}

    def _locate(self, kind: str) -> dict[str, Any]:
        return {
            "type": kind,
            "output_index": len(self.items) - 1,
            "item_id": self.items[-1]["id"],
        }

    def close_item(self) -> Iterator[dict[str, Any]]:
        """Yield the events that end the last item, if it is open."""
        if not self.items or self.items[-1]["status"] != "in_progress":
            return
        item = self.items[-1]
        item["status"] = "incomplete" if self.reason == "length" else "completed"
        if item["type"] == "message":
            (part,) = item["content"]
            done = {**self._locate("response.output_text.done"), "content_index": 0, "logprobs": []}
            yield {**done, "text": part["text"]}
            yield {**self._locate("response.content_part.done"), "content_index": 0, "part": part}
        else:
            done = self._locate("response.function_call_arguments.done")
            yield {**done, "arguments": item["arguments"], "name": item["name"]}
        place = len(self.items) - 1
        yield {"type": "response.output_item.done", "output_index": place, "item": {**item}}

    def describe(self, status: str) -> dict[str, Any]:
        """Return the response object as it is now."""
        body = self.body
        told = body.model_dump(by_alias=True, exclude_none=True)
        is_cut = status == "incomplete"
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [{**item} for item in self.items],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": told.get("text") or {"format": {"type": "text"}},
            "tool_choice": told.get("tool_choice", "auto"),
            "tools": told.get("tools", []),
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": self.usage,
            "metadata": told.get("metadata", {}),
        }

    def count(self, completion_tokens: int, cached_tokens: int) -> None:
        """Note how many tokens were read and written."""
        prompt = self.plan.prompt_tokens
        self.usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached_tokens},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion_tokens,
        }

    @property
    def final_status(self) -> str:
        return "incomplete" if self.reason == "length" else "completed"


async def _run(gateway: Gateway, answer: _Answer) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of an answer without their numbers, the final one last."""
    reader = ToolReader(answer.plan.tools)
    async with start_jobs(gateway, answer.plan) as running:
        async with aclosing(running.pieces()) as pieces:
            is_started = False
            async for _, piece in pieces:
                trace = {"mesh": make_trace(running.trace)}
                if not is_started:
                    is_started = True
                    begun = answer.describe("in_progress")
                    yield {"type": "response.created", "response": begun, **trace}
                    yield {"type": "response.in_progress", "response": begun}
                deltas: list[dict[str, Any]] = []
                if isinstance(piece, Generated):
                    deltas = reader.feed(join_texts(piece.tokens))
                elif isinstance(piece, Finished):
                    deltas = reader.flush()
                for delta in deltas:
                    for event in answer.take(delta):
                        yield event
                if isinstance(piece, Finished):
                    answer.reason = piece.reason
    for event in answer.close_item():
        yield event
    answer.count(sum(running.usage_tokens), running.cached_tokens or 0)
    status = answer.final_status
    final = {**answer.describe(status), "mesh": make_trace(running.trace)}
    yield {"type": f"response.{status}", "response": final}


async def _stream(gateway: Gateway, answer: _Answer) -> AsyncGenerator[dict[str, Any], None]:
    number = 0
    async with aclosing(_run(gateway, answer)) as events:
        async for event in events:
            yield {**event, "sequence_number": number}
            number += 1


async def _collect(gateway: Gateway, answer: _Answer) -> dict[str, Any]:
    final: dict[str, Any] = {}
    async with aclosing(_run(gateway, answer)) as events:
        async for event in events:
            final = event
    response: dict[str, Any] = final["response"]
    return response
