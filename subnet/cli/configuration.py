"""Variables and configuration file become the defaults of the command that is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subnet.cli.command_tree import Command, build_tree
from subnet.cli.resolution import Value, check_file, resolve
from subnet.cli.settings import Setting, list_settings, map_settings
from subnet.errors import UsageError
from subnet.operator.config_file import ConfigFile, find_config_path, read_config_file

CONFIG_OPTION = "--config"
ASK_FOR_HELP = frozenset({"--help", "--version", "--install-completion", "--show-completion"})


@dataclass(frozen=True, slots=True)
class Line:
    """A command line as it is understood.

    ``path`` are the words of the command in `mesh`, ``arguments`` what follows them; ``config`` is
    the file that ``--config`` names.
    """

    command: Command
    path: tuple[str, ...]
    arguments: tuple[str, ...]
    config: Path | None = None

    @property
    def is_for_help(self) -> bool:
        """Whether the command only explains itself, which a wrong file must not prevent."""
        return bool(ASK_FOR_HELP & set(self.arguments)) or any(
            name.startswith("_MESH") and name.endswith("_COMPLETE") for name in os.environ
        )


def take_config_option(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return the line without ``--config FILE``, which may stand anywhere, and the file.

    Raises UsageError where the file is missing.
    """
    rest: list[str] = []
    named: Path | None = None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            return [*rest, word, *words], named
        if name != CONFIG_OPTION:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise UsageError("--config needs a file", "give --config FILE")
        named = Path(value)
    return rest, named


def bind_settings(line: Line, root: Command | None = None) -> dict[str, Any]:
    """Return the defaults of the line's command by parameter, from variables and file.

    Names in help the variables of the settings that commands share. ``root`` is the whole tree of
    `mesh`, where it is at hand. Raises ConfigError.
    """
    mapped = map_settings(line.path, line.command)
    for parameter in line.command.params:
        settings = mapped.get(parameter.name, ())
        if settings and not settings[-1].table:
            parameter.envvar = [setting.variable for setting in settings]
    if not mapped or line.is_for_help:
        return {}
    file = load_file(line.config, root)
    return {name: value.value for name, value in resolve_line(line, mapped, file).items()}


def load_file(named: Path | None, root: Command | None = None) -> ConfigFile | None:
    """Return the configuration file, checked; None if there is none. Raises ConfigError."""
    path = find_config_path(named, os.environ)
    if path is None:
        return None
    file = read_config_file(path)
    if file.values:
        check_file(file, list_all_settings(root))
    return file


def list_all_settings(root: Command | None = None) -> tuple[Setting, ...]:
    """Return the settings of all commands of `mesh`."""
    if root is None:
        from subnet.cli.mesh import app

        root = build_tree(app)
    return list_settings(root)


def resolve_line(
    line: Line, mapped: dict[str, tuple[Setting, ...]], file: ConfigFile | None
) -> dict[str, Value]:
    """Return what variables and file say of parameters that the line does not give."""
    return resolve(mapped, given=read_given(line).keys(), environment=os.environ, file=file)


def read_given(line: Line) -> dict[str, Any]:
    """Return what stands on the line itself, by parameter; what is wrong there is passed over."""
    context = line.command.make_context(
        line.path[-1] if line.path else "", list(line.arguments), resilient_parsing=True
    )
    with context:
        return {
            parameter.name: context.params[parameter.name]
            for parameter in line.command.params
            if getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
        }
