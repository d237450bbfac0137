"""Command lines in sentences for people name commands and options that exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

import subnet
from subnet.cli.mesh import app

COMMAND = re.compile(r"`(mesh [^`]*)`")
ALWAYS = {"--verbose", "--help"}


def list_texts(source: str) -> Iterator[str]:
    """Return the texts of a module, docstrings too; a value that is filled in stands as 1."""
    parts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield "" if id(node) in parts else node.value


def find_lines() -> list[str]:
    assert subnet.__file__ is not None
    paths = Path(subnet.__file__).parent.rglob("*.py")
    texts = (text for path in paths for text in list_texts(path.read_text()))
    return sorted({" ".join(line.split()) for text in texts for line in COMMAND.findall(text)})


def explain_fault(line: str) -> str | None:
    """Return what no ``mesh`` understands of a line; None if it does. A bare name is a mention."""
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        found = command.commands.get(words[0])
        if found is None:
            return f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    options = {
        name: param for param in command.params for name in (*param.opts, *param.secondary_opts)
    }
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            given += 1
            continue
        if word in ALWAYS:
            continue
        option = options.get(word.replace("_", "-"))
        if option is None:
            return f"it has no option {word}"
        if isinstance(option, TyperOption) and not option.is_flag and words:
            words.pop(0)
    most = float("inf") if any(param.nargs < 0 for param in arguments) else len(arguments)
    return f"it takes {len(arguments)} arguments, not {given}" if given > most else None


def test_there_are_hints_to_check() -> None:
    assert len([line for line in find_lines() if " --" in line]) > 10


@pytest.mark.parametrize("line", find_lines())
def test_a_hint_names_a_command_with_options_that_it_has(line: str) -> None:
    assert explain_fault(line) is None


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mesh no-such-command", "no command"),
        ("mesh chain add-stake 128001", "takes 0 arguments"),
        ("mesh chain leave --node 4", "no option --node"),
    ],
)
def test_a_line_that_fails_is_found(line: str, fault: str) -> None:
    assert fault in str(explain_fault(line))
