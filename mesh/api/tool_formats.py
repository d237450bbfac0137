"""How models write calls of tools, and what they are told about tools.

A model's chat template says which format it was trained on. A template that knows nothing of tools
gets them as a system message of ours, in the Hermes format, which most models can be led to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mesh.api.backend import ChatMessage
from mesh.api.structured import write_json_rule


class ToolFormat(StrEnum):
    """Where a call begins and ends, and what its parts are called."""

    HERMES = "hermes"
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>, as Qwen 2.5 and 3 write it too."""
    LLAMA3 = "llama3"
    """The whole answer is {"name": …, "parameters": {…}}."""
    MISTRAL = "mistral"
    """[TOOL_CALLS][{"name": …, "arguments": {…}}]; the marker is a special token without text."""

    @property
    def arguments_key(self) -> str:
        return "parameters" if self is ToolFormat.LLAMA3 else "arguments"


@dataclass(frozen=True, slots=True)
class ToolStyle:
    """One model's way with tools; ``is_native``: its template takes them itself."""

    format: ToolFormat
    is_native: bool


def find_tool_style(template: str | None) -> ToolStyle:
    """Return how a model with this chat template writes calls."""
    source = template or ""
    is_native = "tools" in source
    if "[TOOL_CALLS]" in source:
        return ToolStyle(ToolFormat.MISTRAL, is_native)
    if "<|python_tag|>" in source or "Environment: ipython" in source:
        return ToolStyle(ToolFormat.LLAMA3, is_native)
    return ToolStyle(ToolFormat.HERMES, is_native and "tool_call" in source)


_INTRODUCTION = """You may call functions. Each of these lines describes one:
{tools}
To call a function, write its name and its arguments as JSON between two tags, and nothing else:
<tool_call>
{{"name": "the_name", "arguments": {{"an_argument": "a value"}}}}
</tool_call>
Its result comes back between <tool_response> tags. Call none if you can answer without."""


def describe_in_words(
    messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]
) -> list[ChatMessage]:
    """Return a conversation for a template without tools: they, calls and results become text."""
    told = [_tell(message) for message in messages]
    if not tools:
        return told
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=lines)
    if told and told[0].role == "system":
        return [ChatMessage("system", f"{told[0].content}\n\n{introduction}"), *told[1:]]
    return [ChatMessage("system", introduction), *told]


def _tell(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [
        "<tool_call>\n"
        + json.dumps(
            {"name": call["function"]["name"], "arguments": call["function"]["arguments"]},
            ensure_ascii=False,
        )
        + "\n</tool_call>"
        for call in message.tool_calls
    ]
    text = "\n".join([*filter(None, [message.content]), *calls])
    return ChatMessage("assistant", text, reasoning=message.reasoning)


def make_call_rules(
    style: ToolFormat, tools: Sequence[dict[str, Any]], *, is_parallel: bool
) -> list[str]:
    """Return Lark rules whose ``calls`` is one call of one of the tools, or several."""
    defs = {
        f"tool{place}_{name}": _rename_refs(value, f"tool{place}_")
        for place, tool in enumerate(tools)
        for name, value in _find_definitions(tool).items()
    }
    call: dict[str, Any] = {
        "anyOf": [
            _make_call_schema(style, tool, prefix=f"tool{place}_")
            for place, tool in enumerate(tools)
        ]
    }
    schema = write_json_rule({**call, "$defs": defs} if defs else call)
    rules = {
        ToolFormat.HERMES: ('"<tool_call>\\n" call "\\n</tool_call>"', '"\\n"'),
        ToolFormat.LLAMA3: ("call", '"; "'),
        ToolFormat.MISTRAL: ("call", '", "'),
    }
    one, separator = rules[style]
    several = f"one ({separator} one)*" if is_parallel else "one"
    if style is ToolFormat.MISTRAL:
        several = f'"[" {several} "]"'
    return [f"calls: {several}", f"one: {one}", f"call: {schema}"]


def _make_call_schema(style: ToolFormat, tool: dict[str, Any], *, prefix: str) -> dict[str, Any]:
    function = tool["function"]
    parameters = function.get("parameters") or {"type": "object"}
    own = {key: value for key, value in parameters.items() if key not in _DEFINITIONS}
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            style.arguments_key: _rename_refs(own, prefix),
        },
        "required": ["name", style.arguments_key],
        "additionalProperties": False,
    }


_DEFINITIONS = ("$defs", "definitions")


def _find_definitions(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool["function"].get("parameters") or {}
    found: dict[str, Any] = {}
    for key in _DEFINITIONS:
        values = parameters.get(key)
        found |= values if isinstance(values, dict) else {}
    return found


def _rename_refs(value: Any, prefix: str) -> Any:
    """Return a schema whose references name the definitions of one tool among several."""
    if isinstance(value, dict):
        return {
            key: (
                _rename_ref(inner, prefix)
                if key == "$ref" and isinstance(inner, str)
                else _rename_refs(inner, prefix)
            )
            for key, inner in value.items()
        }
    return [_rename_refs(inner, prefix) for inner in value] if isinstance(value, list) else value


def _rename_ref(ref: str, prefix: str) -> str:
    for key in _DEFINITIONS:
        start = f"#/{key}/"
        if ref.startswith(start):
            return f"#/$defs/{prefix}{ref.removeprefix(start)}"
    return ref
