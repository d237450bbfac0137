"""The tools of a chat request: which may be called, what the model is told, what it may write."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.api import parameters
from mesh.api.backend import ChatMessage, ChatPrompt, ServedModel
from mesh.api.problems import Problem, quote_name
from mesh.api.reasoning import Part, ReasoningSplitter
from mesh.api.schemas import ChatRequest, Message, NamedTool
from mesh.api.structured import Wanted, make_lark, write_json_rule
from mesh.api.token_sets import TOKEN_SETS
from mesh.api.tool_calls import CallArguments, CallStart, Content, Delta, ToolCallParser
from mesh.api.tool_formats import (
    ToolStyle,
    describe_in_words,
    find_tool_style,
    make_call_rules,
)
from mesh.inference.grammar import GrammarKind


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The tools that may be called, none if empty. ``is_forced``: the answer must be a call.

    ``thinking`` None: thoughts are not told apart; else whether the prompt ends within one.
    """

    style: ToolStyle
    tools: tuple[dict[str, Any], ...]
    is_forced: bool
    is_parallel: bool
    thinking: bool | None = None


def plan_tools(body: ChatRequest, model: ServedModel) -> ToolPlan:
    """Return what a request says about tools. Raises Problem 400 that names the field."""
    style = find_tool_style(model.chat_template)
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise Problem(400, "Two tools have one name.", param="tools", code="invalid_value")
    choice = body.tool_choice or "auto"
    is_forced = choice not in ("auto", "none")
    if is_forced and not tools:
        raise Problem(400, "'tool_choice' needs 'tools'.", param="tool_choice")
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
        if not tools:
            name = quote_name(choice.function.name)
            raise Problem(400, f"No tool has the name '{name}'.", param="tool_choice")
    return ToolPlan(
        style=style,
        tools=() if choice == "none" else tuple(tools),
        is_forced=is_forced,
        is_parallel=body.parallel_tool_calls is not False and not isinstance(choice, NamedTool),
    )


def make_prompt(body: ChatRequest, plan: ToolPlan) -> ChatPrompt:
    """Return what the model's template is given. Raises Problem 400 for a result of no call."""
    continues = bool(body.continue_final_message)
    if continues and body.add_generation_prompt:
        text = "'continue_final_message' and 'add_generation_prompt' exclude each other."
        raise Problem(400, text, param="continue_final_message", code="invalid_value")
    messages = [*_read_messages(body.messages)]
    if not plan.style.is_native:
        messages = describe_in_words(messages, plan.tools)
    return ChatPrompt(
        messages=tuple(messages),
        tools=plan.tools if plan.style.is_native else (),
        options=body.chat_template_kwargs or {},
        add_generation_prompt=body.add_generation_prompt is not False and not continues,
        continue_final_message=continues,
        split_special_tokens=body.split_special_tokens is not False,
    )


def _read_messages(messages: Sequence[Message]) -> Iterator[ChatMessage]:
    called: dict[str, str] = {}
    for place, message in enumerate(messages):
        calls = message.tool_calls or []
        parameters.check_supported(
            message.get_extras(), parameters.MESSAGE, within=f"messages[{place}]."
        )
        called |= {call.id: call.function.name for call in calls}
        if calls and message.role != "assistant":
            raise _blame(place, "tool_calls", "Only an assistant calls tools.")
        if message.role == "tool" and message.tool_call_id not in called:
            raise _blame(place, "tool_call_id", "This is the result of no call before it.")
        yield ChatMessage(
            # OpenAI renamed the role; models know it by its old name.
            role="system" if message.role == "developer" else message.role,
            content=message.get_text(),
            tool_calls=tuple(
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _read_arguments(call.function.arguments),
                    },
                }
                for call in calls
            ),
            tool_call_id=message.tool_call_id,
            name=called.get(message.tool_call_id or "", message.name),
            reasoning=message.reasoning_content,
        )


def _blame(place: int, field: str, text: str) -> Problem:
    return Problem(400, text, param=f"messages[{place}].{field}", code="invalid_value")


def _read_arguments(text: str) -> Any:
    """Return arguments as an object, which templates write themselves; else as they are."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def choose_grammar(plan: ToolPlan, wanted: Wanted | None) -> Wanted | None:
    """Return the grammar of an answer that may, or must, be calls. Raises Problem 400."""
    is_free = wanted is None or wanted[0] in TOKEN_SETS
    if not plan.tools or (is_free and not plan.is_forced):
        return wanted
    if wanted is not None and is_free:
        raise Problem(400, f"'{wanted[0]}' and 'tool_choice' are too many.", param=wanted[0])
    calls = make_call_rules(plan.style.format, plan.tools, is_parallel=plan.is_parallel)
    if plan.is_forced:
        return "tools", make_lark(["start: calls", *calls])
    assert wanted is not None
    field, grammar = wanted
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        raise Problem(400, f"'{field}' and 'tools' are too many.", param=field)
    try:
        answer = write_json_rule(json.loads(grammar.text))
    except (ValueError, RecursionError):
        raise Problem(400, "This is not JSON.", param=field, code="invalid_grammar") from None
    return field, make_lark(["start: calls | answer", *calls, f"answer: {answer}"])


class ToolReader:
    """Reads one choice's answer: what of it is content, and which calls it makes.

    ``echo`` stands before the content.
    """

    def __init__(self, plan: ToolPlan, *, echo: str = "") -> None:
        self._parser = ToolCallParser(plan.style.format) if plan.tools else None
        self._max_calls = None if plan.is_parallel else 1
        self._calls: list[dict[str, Any]] = []
        self._content = echo
        self._reasoning = ""
        self._thinking = None if plan.thinking is None else ReasoningSplitter(is_open=plan.thinking)

    def feed(self, text: str) -> list[dict[str, Any]]:
        """Return the deltas of a stream that this text gives."""
        if self._thinking is None:
            return self._feed_answer(text)
        return self._tell(self._thinking.feed(text))

    def _tell(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        for is_reasoning, text in parts:
            if is_reasoning:
                self._reasoning += text
                told.append({"reasoning_content": text})
            else:
                told += self._feed_answer(text)
        return told

    def _feed_answer(self, text: str) -> list[dict[str, Any]]:
        if self._parser is None:
            self._content += text
            return [{"content": text}]
        return self._take(self._parser.feed(text))

    def flush(self) -> list[dict[str, Any]]:
        """Return the deltas that were held back, at the end of the text."""
        told = [] if self._thinking is None else self._tell(self._thinking.flush())
        return told if self._parser is None else told + self._take(self._parser.flush())

    def finish(self, reason: str) -> str:
        """Return OpenAI's reason for the end of this answer."""
        return "tool_calls" if self._calls and reason == "stop" else reason

    def make_message(self) -> dict[str, Any]:
        """Return the whole answer."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self._calls and not self._content else self._content,
            "refusal": None,
        }
        if self._thinking is not None:
            message["reasoning_content"] = self._reasoning or None
        return {**message, "tool_calls": self._calls} if self._calls else message

    def _take(self, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        for delta in deltas:
            if isinstance(delta, Content):
                self._content += delta.text
                told.append({"content": delta.text})
            elif self._max_calls is None or delta.index < self._max_calls:
                told.append({"tool_calls": [self._note(delta)]})
        return told

    def _note(self, delta: CallStart | CallArguments) -> dict[str, Any]:
        if isinstance(delta, CallArguments):
            self._calls[delta.index]["function"]["arguments"] += delta.text
            return {"index": delta.index, "function": {"arguments": delta.text}}
        call: dict[str, Any] = {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": delta.name, "arguments": ""},
        }
        self._calls.append(call)
        return {"index": delta.index, **call, "function": {**call["function"]}}
