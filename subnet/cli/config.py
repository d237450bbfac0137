"""``mesh config show``: every setting, its value, and where the value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from subnet.cli.console import emit, say
from subnet.cli.options import AsJson
from subnet.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Show what the configuration file and MESH_ variables set.",
)


@app.callback()
def config() -> None:
    """Options of every command."""


@app.command(
    "show", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}
)
def show(
    context: typer.Context,
    line: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND [ARGS]...]",
            help="A line without `mesh`, such as node mesh-tiny --hoster: what it would run with.",
        ),
    ] = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say of each value where it comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show all settings as a configuration file, those at their default as comments.

    A value comes from the command line, else from a variable, else from the file: --config FILE,
    MESH_CONFIG, mesh.toml in MESH_HOME, or mesh/mesh.toml in XDG_CONFIG_HOME. With COMMAND only
    its own. Secrets are in files of their own, which are named and not read.
    """
    import os

    from subnet.cli.command_tree import build_tree
    from subnet.cli.configuration import list_all_settings, load_file
    from subnet.cli.mesh import app as mesh
    from subnet.cli.resolution import Source, Value, find_value

    root = build_tree(mesh)
    settings = list_all_settings(root)
    file = load_file(context.obj.config, root)
    if line:
        rows = list(_list_of_command(root, line, file))
    else:
        rows = [
            find_value((setting,), environment=os.environ, file=file)
            or Value(setting, setting.default, Source.DEFAULT)
            for setting in settings
        ]
    for notice in find_useless_variables([setting.variable for setting in settings]):
        say(notice)
    path = None if file is None else str(file.path)
    if as_json:
        emit(json.dumps({"file": path, "settings": [render(row) for row in rows]}))
    else:
        emit(write_toml(rows, path, with_origin=origin))


def _list_of_command(root: Any, line: Sequence[str], file: Any) -> Iterator[Any]:
    """Yield the settings of one command, as it would run. Raises UsageError or ConfigError."""
    from dataclasses import replace

    from subnet.cli.arguments import list_old_spellings, normalise_arguments
    from subnet.cli.command_tree import find_command, list_spellings
    from subnet.cli.configuration import Line, read_given, resolve_line
    from subnet.cli.resolution import Source, Value
    from subnet.cli.settings import map_settings

    path, command = find_command(root, line)
    mapped = map_settings(path, command)
    if not mapped:
        raise UsageError(
            f"{' '.join(line)!r} is no command that has settings",
            "`mesh config show` lists the commands that have some",
        )
    spellings = list_old_spellings(list_spellings(command))
    arguments = normalise_arguments(line[len(path) :], spellings=spellings)
    parsed = Line(command, path, tuple(arguments))
    given = read_given(parsed)
    found = resolve_line(parsed, mapped, file)
    for parameter in command.params:
        if parameter.name not in mapped:
            continue
        setting = mapped[parameter.name][0]
        if parameter.name in given:
            option = parameter.opts[0]
            place = option if option.startswith("-") else option.upper()
            yield Value(setting, given[parameter.name], Source.FLAG, place)
        else:
            value = found.get(parameter.name, Value(setting, setting.default, Source.DEFAULT))
            yield replace(value, setting=setting)


def render(row: Any) -> dict[str, Any]:
    """Return one value for ``--json``."""
    return {
        "table": row.setting.table,
        "key": row.setting.key,
        "value": _show(row.value),
        "source": row.source.name.lower(),
        "place": row.place or None,
        "variable": row.setting.variable,
    }


def write_toml(rows: Sequence[Any], path: str | None, *, with_origin: bool) -> str:
    """Return the values as a file that sets them; defaults are comments."""
    from subnet.cli.resolution import Source

    lines = [f"# {path}" if path else "# there is no configuration file"]
    table = ""
    for row in rows:
        if row.setting.table != table:
            table = row.setting.table
            lines += ["", f"[{table}]"]
        value = _show(row.value)
        text = f"{row.setting.key} = {'' if value is None else json.dumps(value)}".rstrip()
        if row.source is Source.DEFAULT:
            text = f"# {text}"
        lines.append(f"{text}  # {row.describe_origin()}" if with_origin else text)
    return "\n".join(lines)


def find_useless_variables(variables: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each MESH_ variable that sets nothing."""
    import os
    from difflib import get_close_matches

    from subnet.cli.settings import PREFIX
    from subnet.operator.config_file import CONFIG_VARIABLE

    known = {*variables, CONFIG_VARIABLE}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            yield f"the variable {name} sets nothing" + (f"; the nearest is {near[0]}" * bool(near))


def _show(value: Any) -> Any:
    """Return a value as JSON and TOML have it, without what may be a secret in an address."""
    from enum import Enum

    from subnet.operator.redaction import redact_urls

    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, list | tuple):
        return [_show(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_urls(str(value))
