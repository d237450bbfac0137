"""Calls of tools in scripted outputs of each format, in every cutting of the stream."""

from __future__ import annotations

import json

import pytest

from mesh.api.tool_calls import CallArguments, CallStart, Content, ToolCallParser
from mesh.api.tool_formats import ToolFormat, ToolStyle, find_tool_style

HERMES, LLAMA3, MISTRAL = ToolFormat.HERMES, ToolFormat.LLAMA3, ToolFormat.MISTRAL
ROME = {"city": 'R"o{m}e', "days": [1, {"a": "}"}]}


def parse(form, pieces):
    """Return the content and the calls that the pieces of an answer hold."""
    parser = ToolCallParser(form)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.flush()
    content, calls = "", []
    for delta in deltas:
        match delta:
            case Content():
                content += delta.text
            case CallStart():
                assert delta.index == len(calls)
                calls.append([delta.name, ""])
            case CallArguments():
                assert delta.index == len(calls) - 1
                calls[-1][1] += delta.text
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def cut(text, size):
    return [text[start : start + size] for start in range(0, len(text), size)]


def call(name="weather", arguments=ROME, key="arguments"):
    return json.dumps({"name": name, key: arguments})


ANSWERS = [
    (HERMES, "Just a text with < and <tool and {}.", "Just a text with < and <tool and {}.", []),
    (HERMES, f"<tool_call>\n{call()}\n</tool_call>", "", ["weather"]),
    (
        HERMES,
        f"Let me look.\n<tool_call>{call()}</tool_call>\n<tool_call>\n{call('time')}\n</tool_call>",
        "Let me look.\n",
        ["weather", "time"],
    ),
    (HERMES, f"<tool_call>{call()}</tool_call>\nDone.", "Done.", ["weather"]),
    (HERMES, f"<tool_call>\n{call()}\n", "", ["weather"]),
    (
        HERMES,
        '<tool_call>{"arguments": ' + json.dumps(ROME) + ', "name": "weather"}</tool_call>',
        "",
        ["weather"],
    ),
    (HERMES, "<tool_call>no json</tool_call>", "<tool_call>no json</tool_call>", []),
    (HERMES, '<tool_call>{"na', '<tool_call>{"na', []),
    (HERMES, '<tool_call>{"a": 1}</tool_call>', '<tool_call>{"a": 1}</tool_call>', []),
    (LLAMA3, call(key="parameters"), "", ["weather"]),
    (LLAMA3, f"<|python_tag|>{call(key='parameters')}", "", ["weather"]),
    (
        LLAMA3,
        f"{call(key='parameters')}; {call('time', key='parameters')}",
        "",
        ["weather", "time"],
    ),
    (LLAMA3, "It is {fine}.", "It is {fine}.", []),
    (LLAMA3, '{"answer": 42}', '{"answer": 42}', []),
    (LLAMA3, "<|python", "<|python", []),
    (MISTRAL, f"[{call()}, {call('time')}]", "", ["weather", "time"]),
    (MISTRAL, f"[TOOL_CALLS] [{call()}]", "", ["weather"]),
    (MISTRAL, "[1] is a reference.", "[1] is a reference.", []),
    (MISTRAL, "Ciao.", "Ciao.", []),
    (HERMES, "", "", []),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("form", "text", "content", "names"), ANSWERS)
def test_every_cutting_of_an_answer_gives_the_same_calls(form, text, content, names, size):
    found, calls = parse(form, cut(text, size))
    assert found == content
    assert calls == [(name, ROME) for name in names]


def test_a_name_is_told_before_its_arguments_have_come():
    parser = ToolCallParser(HERMES)
    assert parser.feed('<tool_call>\n{"name": "weather", "arguments": ') == []
    assert parser.feed('{"ci') == [CallStart(0, "weather"), CallArguments(0, '{"ci')]
    assert parser.feed('ty": "Ro') == [CallArguments(0, 'ty": "Ro')]


def test_content_is_not_held_back_but_for_what_may_become_a_tag():
    parser = ToolCallParser(HERMES)
    assert parser.feed("Hello <to") == [Content("Hello ")]
    assert parser.feed("day>") == [Content("<today>")]


def test_a_call_that_is_cut_keeps_what_its_arguments_have():
    deltas = ToolCallParser(HERMES).feed('<tool_call>{"name": "f", "arguments": {"a": "b')
    assert deltas == [CallStart(0, "f"), CallArguments(0, '{"a": "b')]


@pytest.mark.parametrize(
    "rest", ["", " ", ",", ', "', ', "arguments', ', "arguments":', ', "x": 1']
)
def test_a_call_that_is_cut_behind_its_name_is_a_call_without_arguments(rest):
    parser = ToolCallParser(HERMES)
    assert parser.feed('<tool_call>\n{"name": "f"' + rest) == []
    assert parser.flush() == [CallStart(0, "f"), CallArguments(0, "")]


@pytest.mark.parametrize("text", ["<tool_call>", '<tool_call>{"na', '<tool_call>{"name": "f'])
def test_a_call_that_is_cut_before_its_name_is_content(text):
    parser = ToolCallParser(HERMES)
    assert parser.feed(text) == []
    assert parser.flush() == ([] if text == "<tool_call>" else [Content(text)])


def test_arguments_that_are_no_json_are_passed_on():
    parser = ToolCallParser(HERMES)
    deltas = parser.feed('<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>')
    assert deltas == [CallStart(0, "f"), CallArguments(0, "{a: 1}")]
    assert parser.flush() == []


@pytest.mark.parametrize("text", ["{" * 5000, '{"name": "' + "\\" * 999, "<tool_call>" * 500])
@pytest.mark.parametrize("form", list(ToolFormat))
def test_nonsense_comes_back_as_content(form, text):
    found, calls = parse(form, cut(text, 50))
    assert calls == [] and found.count("{") == text.count("{")


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("{% if tools %}<tool_call>{% endif %}", ToolStyle(HERMES, True)),
        ("{{ tools }}<|python_tag|>", ToolStyle(LLAMA3, True)),
        ("{{ tools }}[TOOL_CALLS]", ToolStyle(MISTRAL, True)),
        ("{{ messages }}", ToolStyle(HERMES, False)),
        (None, ToolStyle(HERMES, False)),
    ],
)
def test_a_template_says_how_its_model_calls(template, style):
    assert find_tool_style(template) == style
