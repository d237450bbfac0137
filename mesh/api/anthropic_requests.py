"""Anthropic's requests as chat requests, so that both endpoints honour and refuse alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from mesh.api.anthropic_schemas import (
    AnthropicMessage,
    CountRequest,
    MessagesRequest,
    NamedChoice,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from mesh.api.chat_answer import make_chat_request
from mesh.api.problems import Problem
from mesh.api.schemas import ChatRequest


def translate(body: CountRequest) -> ChatRequest:
    """Return the same as a chat request. Raises Problem or RequestValidationError."""
    if body.messages[-1].role == "assistant":
        raise Problem(
            400, "The last message is to be the user's: no answer is continued.", param="messages"
        )
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": [*_make_messages(body)],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                },
            }
            for tool in body.tools or ()
        ],
        **_read_choice(body),
    }
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"name": "output", "schema": body.output_config.format.schema_}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
        }
    return make_chat_request(fields)


def _read_choice(body: CountRequest) -> dict[str, Any]:
    choice = body.tool_choice
    if choice is None:
        return {}
    parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    if isinstance(choice, NamedChoice):
        named = {"type": "function", "function": {"name": choice.name}}
        return {"tool_choice": named, **parallel}
    return {"tool_choice": "required" if choice.type == "any" else choice.type, **parallel}


def _make_messages(body: CountRequest) -> Iterator[dict[str, Any]]:
    """Yield the turns; messages of one role that follow each other are one turn, as Anthropic's."""
    if body.system:
        yield {"role": "system", "content": _join(body.system)}
    for role, messages in groupby(body.messages, key=lambda message: message.role):
        blocks = [block for message in messages for block in _list_blocks(message)]
        yield from _make_assistant(blocks) if role == "assistant" else _make_user(blocks)


def _list_blocks(message: AnthropicMessage) -> list[TextBlock | ToolUseBlock | ToolResultBlock]:
    if isinstance(message.content, str):
        return [TextBlock(type="text", text=message.content)]
    return message.content


def _make_assistant(blocks: list[Any]) -> Iterator[dict[str, Any]]:
    calls = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            raise Problem(400, "A tool's result is the user's to tell.", param="messages")
        if isinstance(block, ToolUseBlock):
            called = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            calls.append({"id": block.id, "type": "function", "function": called})
    text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    yield {**turn, "tool_calls": calls} if calls else turn


def _make_user(blocks: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of tools and the texts, in their order."""
    texts: list[str] = []
    for block in blocks:
        if isinstance(block, ToolUseBlock):
            raise Problem(400, "Only the assistant uses tools.", param="messages")
        if isinstance(block, TextBlock):
            texts.append(block.text)
            continue
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}
            texts = []
        told = _join(block.content or "")
        text = f"Error: {told}" if block.is_error else told
        yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
    if texts:
        yield {"role": "user", "content": "\n".join(texts)}


def _join(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
