"""``/v1/responses``: OpenAI's newer form of the same.

A request becomes a chat request, so that both endpoints honour and refuse alike; an answer becomes
items: a thought, a message, and the calls of functions. A response is kept only where ``store`` is
true; a later request goes on from it by ``previous_response_id``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from mesh.api import parameters
from mesh.api.chat import ChatPlan, plan_chat
from mesh.api.chat_answer import AnswerStep, make_chat_request, run_chat
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
from mesh.api.openapi import ERRORS, STREAM_OR_JSON
from mesh.api.response_schemas import (
    DeletedReply,
    FunctionCallItem,
    FunctionOutputItem,
    InputMessage,
    NamedFunctionTool,
    ReasoningItem,
    ResponseReply,
    ResponsesRequest,
)
from mesh.api.response_store import Items
from mesh.api.schemas import ChatRequest
from mesh.api.sse import respond_with_stream

router = APIRouter(tags=["responses"])


@router.post(
    "/v1/responses",
    response_model=ResponseReply,
    responses=STREAM_OR_JSON,
    dependencies=[Depends(require_json)],
    summary="Answer an input, in items",
)
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """Answer in one piece, or as typed server-sent events with ``stream``."""
    gateway = get_gateway(request)
    parameters.check_supported(body.get_extras(), parameters.RESPONSES)
    if body.text is not None:
        known = parameters.RESPONSES_TEXT
        parameters.check_supported(body.text.get_extras(), known, within="text.")
    history = _list_history(gateway, body, caller=get_caller(request))
    plan = await plan_chat(
        gateway,
        translate(_join_history(body, history)),
        caller=get_caller(request),
        has_receipt=wants_receipt(request),
    )
    answer = _Answer(body, plan, history)
    if body.stream:
        return await respond_with_stream(gateway, request, _stream(gateway, answer))
    reply = await run_while_connected(request, _collect(gateway, answer))
    return JSONResponse(reply, headers=make_route_header(reply["mesh"]["route"]))


@router.get(
    "/v1/responses/{response_id}",
    response_model=ResponseReply,
    responses=ERRORS,
    summary="Return a kept response",
)
async def get_response(response_id: str, request: Request) -> Response:
    """Return a response that was made with ``store: true``, 404 where it is not kept."""
    kept = get_gateway(request).responses.find(
        get_caller(request), response_id, param="response_id", now_s=time.monotonic()
    )
    return JSONResponse(kept.response)


@router.delete(
    "/v1/responses/{response_id}",
    response_model=DeletedReply,
    responses=ERRORS,
    summary="Forget a kept response",
)
async def delete_response(response_id: str, request: Request) -> Response:
    """Forget a response that was made with ``store: true``."""
    get_gateway(request).responses.forget(
        get_caller(request), response_id, param="response_id", now_s=time.monotonic()
    )
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


def _list_history(gateway: Gateway, body: ResponsesRequest, *, caller: str) -> Items:
    """Return the items before those of a request. Raises Problem 404."""
    if body.previous_response_id is None:
        return ()
    return gateway.responses.find(
        caller,
        body.previous_response_id,
        param="previous_response_id",
        now_s=time.monotonic(),
    ).items


def _join_history(body: ResponsesRequest, history: Items) -> ResponsesRequest:
    """Return the request with the items before its own. Raises RequestValidationError."""
    if not history:
        return body
    told = body.model_dump(by_alias=True, exclude_none=True)
    joined = {**told, "input": [*history, *body.list_items()]}
    try:
        return ResponsesRequest.model_validate(joined)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def translate(body: ResponsesRequest) -> ChatRequest:
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
    return make_chat_request(fields)


def _make_format(wanted: Any) -> dict[str, Any] | None:
    if wanted is None:
        return None
    told: dict[str, Any] = wanted.model_dump(by_alias=True, exclude_none=True)
    if told["type"] != "json_schema":
        return told
    kind = told.pop("type")
    return {"type": kind, "json_schema": told}


def _make_messages(body: ResponsesRequest) -> Iterator[dict[str, Any]]:
    """Yield the turns; calls that follow each other are one turn of the assistant, and a thought
    belongs to the message or the calls after it.
    """
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    turn: dict[str, Any] = {}
    for item in body.input:
        if isinstance(item, ReasoningItem):
            yield from _end_turn(turn)
            turn = {"reasoning_content": item.get_text()}
        elif isinstance(item, FunctionCallItem):
            called = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": called}
            turn = {**turn, "tool_calls": [*turn.get("tool_calls", ()), call]}
        elif isinstance(item, FunctionOutputItem):
            yield from _end_turn(turn)
            turn = {}
            yield {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
        else:
            thought = turn if item.role == "assistant" and "tool_calls" not in turn else {}
            yield from _end_turn({} if thought else turn)
            turn = {}
            yield {"role": item.role, "content": _read_text(item), **thought}
    yield from _end_turn(turn)


def _end_turn(turn: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the assistant's turn that calls functions; a thought that led to nothing is dropped."""
    if "tool_calls" in turn:
        yield {"role": "assistant", **turn}


def _read_text(item: InputMessage) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(part.text for part in item.content)


def _make_item_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class _TextItem:
    """A kind of item that is one text, and what its parts and events are called."""

    item: str
    part: str
    prefix: str
    fields: dict[str, Any]
    part_fields: dict[str, Any] = field(default_factory=dict)
    event_fields: dict[str, Any] = field(default_factory=dict)


MESSAGE = _TextItem(
    "message",
    "output_text",
    "msg",
    {"role": "assistant"},
    {"annotations": [], "logprobs": []},
    {"logprobs": []},
)
REASONING = _TextItem("reasoning", "reasoning_text", "rs", {"summary": []})
_TEXT_ITEMS = {kind.item: kind for kind in (MESSAGE, REASONING)}


@dataclass(slots=True)
class _Answer:
    """What one response has so far: its items in order, as events change them."""

    body: ResponsesRequest
    plan: ChatPlan
    history: Items = ()
    response_id: str = field(default_factory=lambda: make_id("resp").replace("-", "_"))
    created_s: int = field(default_factory=lambda: int(time.time()))
    items: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    reason: str = ""
    tokens_before_answer: int = 0

    def take(self, step: AnswerStep) -> Iterator[dict[str, Any]]:
        """Yield the events of one step."""
        self.reason = step.reason or self.reason
        for delta in step.deltas:
            for call in delta.get("tool_calls", ()):
                yield from self._take_call(call)
            if text := delta.get("reasoning_content"):
                yield from self._take_text(text, REASONING)
            if text := delta.get("content"):
                yield from self._take_text(text, MESSAGE)
        if not any(item["type"] != REASONING.item for item in self.items):
            self.tokens_before_answer = step.usage_tokens

    def _take_text(self, text: str, kind: _TextItem) -> Iterator[dict[str, Any]]:
        if not self.items or self.items[-1]["type"] != kind.item:
            yield from self.close_item()
            item: dict[str, Any] = {
                "type": kind.item,
                "id": _make_item_id(kind.prefix),
                "status": "in_progress",
                **kind.fields,
                "content": [],
            }
            yield self._add(item)
            part = {"type": kind.part, "text": "", **kind.part_fields}
            item["content"].append(part)
            added = self._locate("response.content_part.added")
            yield {**added, "content_index": 0, "part": {**part}}
        self.items[-1]["content"][0]["text"] += text
        delta = self._locate(f"response.{kind.part}.delta")
        yield {**delta, "content_index": 0, "delta": text, **kind.event_fields}

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
        kind = _TEXT_ITEMS.get(item["type"])
        if kind is not None:
            (part,) = item["content"]
            done = {**self._locate(f"response.{kind.part}.done"), "content_index": 0}
            yield {**done, "text": part["text"], **kind.event_fields}
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
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": bool(body.store),
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": told.get("text") or {"format": {"type": "text"}},
            "tool_choice": told.get("tool_choice", "auto"),
            "tools": told.get("tools", []),
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": self.usage,
            "metadata": told.get("metadata", {}),
        }

    def count(self, step: AnswerStep) -> None:
        """Note how many tokens were read and written. Those up to the answer's first text are of a
        thought, if there was one.
        """
        prompt, written = self.plan.prompt_tokens, step.usage_tokens
        has_thought = any(item["type"] == REASONING.item for item in self.items)
        thought = self.tokens_before_answer if has_thought else 0
        self.usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": step.cached_tokens or 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": prompt + written,
        }

    @property
    def final_status(self) -> str:
        return "incomplete" if self.reason == "length" else "completed"


async def _run(gateway: Gateway, answer: _Answer) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of an answer without their numbers, the final one last."""
    is_started = False
    async with aclosing(run_chat(gateway, answer.plan)) as steps:
        async for step in steps:
            if not is_started:
                is_started = True
                begun, trace = answer.describe("in_progress"), make_trace(step.trace)
                yield {"type": "response.created", "response": begun, "mesh": trace}
                yield {"type": "response.in_progress", "response": begun}
            for event in answer.take(step):
                yield event
    for event in answer.close_item():
        yield event
    answer.count(step)
    status = answer.final_status
    final = {**answer.describe(status), "mesh": make_trace(step.trace)}
    if answer.body.store:
        # Before its reader hears of the end, and may go on from it.
        items = [*answer.history, *answer.body.list_items(), *final["output"]]
        gateway.responses.keep(answer.plan.caller, final, items, now_s=time.monotonic())
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
