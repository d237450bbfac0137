"""Finds calls of tools in a model's text as it comes.

What is no call is content and passed on at once, but for the beginning of what may become a
marker. A call's name is told as soon as it is known, and its arguments as they come, character by
character, as OpenAI streams them; arguments that are no valid JSON are passed on as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from mesh.api.tool_formats import ToolFormat
from mesh.client.stops import count_overlap

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_LEADS = {ToolFormat.LLAMA3: "<|python_tag|>", ToolFormat.MISTRAL: "[TOOL_CALLS]"}
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Content:
    """Text that belongs to no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The ``index``-th call of the answer names its tool."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of the ``index``-th call."""

    index: int
    text: str


Delta = Content | CallStart | CallArguments


class _State(Enum):
    BEGINNING = auto()
    """Nothing but blanks has come: whether the whole answer is calls is open."""
    SEARCHING = auto()
    """Content, until the tag of a call."""
    TEXT = auto()
    """Content to the end."""
    CALL = auto()
    """A call begins here, or nothing more comes."""
    ARGUMENTS = auto()
    CLOSING = auto()
    """Behind a call's arguments: what closes it, and what separates it from the next."""


class ToolCallParser:
    """Takes an answer's text piece by piece. After :meth:`flush` nothing is held back."""

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        self._is_hermes = form is ToolFormat.HERMES
        self._state = _State.SEARCHING if self._is_hermes else _State.BEGINNING
        self._held = ""
        """What has come and is not told yet."""
        self._scanner = _ArgumentScanner()
        self._is_after_call = False
        self.calls = 0

    def feed(self, text: str) -> list[Delta]:
        """Return what the text adds."""
        self._held += text
        return [*self._advance()]

    def flush(self) -> list[Delta]:
        """Return what is left, as content: a call that was cut before it had a name is none."""
        found = [*self._advance()]
        held, self._held = self._held, ""
        # Behind the tag of a call a name says enough; elsewhere it may be of any JSON.
        if self._state is _State.CALL and self._is_hermes and (name := _NAME.match(held)):
            call = self._count()
            return [*found, CallStart(call, _read_string(name.group(1))), CallArguments(call, "")]
        if self._state is _State.CALL and held.strip(" \n],;"):
            found.append(Content(self._get_lead() + held))
        elif self._state in (_State.BEGINNING, _State.SEARCHING) and held.strip():
            found.append(Content(held))
        return found

    def _get_lead(self) -> str:
        """Return what was dropped in front of a call that turned out to be none."""
        if self._is_hermes:
            return _OPEN
        return "[" if self._form is ToolFormat.MISTRAL and not self.calls else ""

    def _advance(self) -> Iterator[Delta]:
        steps = {
            _State.BEGINNING: self._begin,
            _State.SEARCHING: self._search,
            _State.TEXT: self._tell_all,
            _State.CALL: self._read_call,
            _State.ARGUMENTS: self._read_arguments,
            _State.CLOSING: self._close,
        }
        while True:
            before = (self._state, len(self._held))
            yield from steps[self._state]()
            if (self._state, len(self._held)) == before:
                return

    def _begin(self) -> Iterator[Delta]:
        """Decide by the first characters whether the whole answer is calls."""
        lead = _LEADS[self._form]
        text = self._held.lstrip()
        if len(text) < len(lead) and lead.startswith(text):
            return
        text = text.removeprefix(lead).lstrip()
        if not text:
            return
        first = "[" if self._form is ToolFormat.MISTRAL else "{"
        if text.startswith(first):
            self._held = text.removeprefix("[")
            self._state = _State.CALL
        else:
            self._state = _State.TEXT
        yield from ()

    def _search(self) -> Iterator[Delta]:
        """Tell content up to the next tag."""
        place = self._held.find(_OPEN)
        size = len(self._held) - count_overlap(self._held, _OPEN) if place < 0 else place
        text, self._held = self._held[:size], self._held[size:]
        if self._is_after_call:
            # Blanks behind a call only separate it.
            text = text.lstrip()
        if text.strip() or (text and place < 0):
            self._is_after_call = False
            yield Content(text)
        if place >= 0:
            self._held = self._held.removeprefix(_OPEN)
            self._state = _State.CALL

    def _tell_all(self) -> Iterator[Delta]:
        text, self._held = self._held, ""
        if text:
            yield Content(text)

    def _read_call(self) -> Iterator[Delta]:
        """Tell the name of the call that begins here, or all of it where its order is unusual."""
        if head := _HEAD.match(self._held):
            yield CallStart(self._count(), _read_string(head.group(1)))
            self._held = self._held[head.end() :]
            self._scanner = _ArgumentScanner()
            self._state = _State.ARGUMENTS
            return
        whole = _read_object(self._held)
        if whole is None:
            return
        value, end = whole
        name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
        if not isinstance(name, str) or arguments is None:
            # JSON that calls nothing is an answer of its own.
            self._held = self._get_lead() + self._held
            self._state = _State.TEXT
            return
        index = self._count()
        yield CallStart(index, name)
        is_text = isinstance(arguments, str)
        yield CallArguments(index, arguments if is_text else json.dumps(arguments))
        self._held = self._held[end:]
        self._state = _State.CLOSING

    def _read_arguments(self) -> Iterator[Delta]:
        """Tell the arguments as far as they have come."""
        if size := self._scanner.scan(self._held):
            yield CallArguments(self.calls - 1, self._held[:size])
            self._held = self._held[size:]
        if self._scanner.is_complete and (text := self._held.lstrip()):
            # The brace that closes the call's own object.
            self._held = text.removeprefix("}")
            self._state = _State.CLOSING

    def _close(self) -> Iterator[Delta]:
        """Drop what closes a call and separates it from the next one."""
        if self._is_hermes:
            text = self._held.lstrip()
            if len(text) < len(_CLOSE) and _CLOSE.startswith(text):
                return
            self._held = text.removeprefix(_CLOSE)
            self._is_after_call = True
            self._state = _State.SEARCHING
        elif text := self._held.lstrip(",;] \n"):
            self._held = text
            self._state = _State.CALL if text.startswith("{") else _State.TEXT
        yield from ()

    def _count(self) -> int:
        self.calls += 1
        return self.calls - 1


class _ArgumentScanner:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False
        self.is_complete = False

    def scan(self, text: str) -> int:
        """Return how many of these characters belong to the object."""
        if self.is_complete:
            return 0
        for place, character in enumerate(text):
            if self._is_string:
                self._scan_string(character)
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.is_complete = True
                    return place + 1
        return len(text)

    def _scan_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._is_string = False


def _read_string(literal: str) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal.strip('"')


def _read_object(text: str) -> tuple[dict[str, Any], int] | None:
    """Return the JSON object that a text begins with, and where it ends; None if there is none."""
    if "}" not in text:
        return None
    start = len(text) - len(text.lstrip())
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None
