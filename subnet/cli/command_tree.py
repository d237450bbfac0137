"""The commands of a command line as a tree, and the options of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

Command = TyperCommand | TyperGroup


def build_tree(app: typer.Typer) -> Command:
    """Return the root of an app's commands: the command itself where it has only one."""
    return cast(Command, typer.main.get_command(app))


def walk_commands(
    root: Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Yield every command that does something, each with the words that name it."""
    if isinstance(root, TyperCommand):
        yield path, root
        return
    for name, command in root.commands.items():
        yield from walk_commands(cast(Command, command), (*path, name))


def find_command(root: Command, line: Sequence[str]) -> tuple[tuple[str, ...], Command]:
    """Return the command that a line names, as far as it names one, with its words."""
    path: tuple[str, ...] = ()
    for word in line:
        if not isinstance(root, TyperGroup) or word not in root.commands:
            break
        root, path = cast(Command, root.commands[word]), (*path, word)
    return path, root


def list_options(command: Command) -> tuple[TyperOption, ...]:
    """Return the options of a command, without ``--help``."""
    return tuple(option for option in command.params if isinstance(option, TyperOption))


def list_spellings(command: Command) -> frozenset[str]:
    """Return every spelling of the command's options."""
    return frozenset(
        name for option in list_options(command) for name in (*option.opts, *option.secondary_opts)
    )
