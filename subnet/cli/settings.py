"""What can be set by a variable or in the configuration file: one table, made from the commands.

Every option of a command in TABLES is a setting of the file's table of that name, except those
that say what one run does. Options in SHARED are also settings of all commands, before the first
table of the file. A value comes from the command line, else from a variable, else from the file,
else it is the option's default; in variables and in the file, the command's own goes before the
shared one.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from typer.core import TyperArgument, TyperCommand, TyperOption

from subnet.cli.command_tree import Command, walk_commands
from subnet.operator.config_file import HOME_VARIABLE

PREFIX = "MESH_"
SHARED = ("chain", "subnet", "data-dir", "offline", "log-level", "log-format", "log-file")
TABLES = (
    "node",
    "bootstrap",
    "serve",
    "generate",
    "doctor",
    "plan",
    "manifest",
    "status",
    "top",
    "why",
    "earnings",
    "wait-for-restart-window",
    "devchain",
)
ACCOUNT = "account"
"""The table of the account that signs, for ``mesh chain`` commands that take ``--key-file``."""
ACCOUNT_KEYS = ("key-file", "password-file", "dev-account")
OF_ONE_RUN = frozenset(
    (
        "again",
        "check",
        "create-key",
        "dry-node",
        "epoch",
        "epochs",
        "expires",
        "json",
        "list-keys",
        "out",
        "receipt",
        "revoke-key",
        "share",
        "version",
    )
)
"""What says what one run does, and is no setting."""
ARGUMENTS = frozenset({"model"})
"""Arguments that are settings as options are."""
VARIABLES = {"data-dir": HOME_VARIABLE}
"""Shared settings whose variable has another name."""

Parameter = TyperOption | TyperArgument


@dataclass(frozen=True, slots=True)
class Kind:
    """Which values a setting takes. ``of`` is bool, int, float, str or Path."""

    of: type
    is_list: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the kind as it ends the sentence that a value must be it."""
        names = {bool: "true or false", int: "a whole number", float: "a number"}
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.is_list:
            return "a list of texts"
        text = names.get(self.of, "a path, as text" if self.of is Path else "a text")
        if self.least is None and self.most is None:
            return text
        if self.most is None:
            return f"{text} of at least {self.least:g}"
        return f"{text} from {self.least or 0:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file. ``table`` is empty for what commands share."""

    table: str
    key: str
    kind: Kind
    default: Any
    help: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        if not self.table:
            return VARIABLES.get(self.key, PREFIX + _make_variable(self.key))
        return f"{PREFIX}{_make_variable(self.table)}_{_make_variable(self.key)}"


def list_settings(root: Command) -> tuple[Setting, ...]:
    """Return all settings: the shared ones, then table by table."""
    found: dict[tuple[str, str], Setting] = {}
    for path, command in walk_commands(root):
        for settings in map_settings(path, command).values():
            for setting in settings:
                found.setdefault((setting.table, setting.key), setting)
    order = ("", *TABLES, ACCOUNT)

    def rank(setting: Setting) -> tuple[int, int]:
        place = 0 if setting.table else SHARED.index(setting.key)
        return order.index(setting.table), place

    return tuple(sorted(found.values(), key=rank))


def map_settings(path: tuple[str, ...], command: Command) -> dict[str, tuple[Setting, ...]]:
    """Return the settings of each parameter of a command, the one that counts most first."""
    if not isinstance(command, TyperCommand):
        return {}
    mapped = {}
    for parameter, kind in _list_parameters(command):
        key = get_key(parameter)
        tables = tuple(_list_tables(path, command, key))
        if tables:
            default, text = _show_default(parameter), str(parameter.help)
            mapped[parameter.name] = tuple(
                Setting(table, key, kind, default, text) for table in tables
            )
    return mapped


def get_key(parameter: Parameter) -> str:
    """Return the name of a parameter in the file: that of its option."""
    if isinstance(parameter, TyperArgument):
        return parameter.name
    return parameter.opts[0].removeprefix("--")


def _list_tables(path: tuple[str, ...], command: TyperCommand, key: str) -> Iterator[str]:
    if path[:1] == ("chain",):
        options = {name for parameter in command.params for name in parameter.opts}
        if key in ACCOUNT_KEYS and "--key-file" in options:
            yield ACCOUNT
        if key in SHARED:
            yield ""
    elif len(path) == 1 and path[0] in TABLES and key not in OF_ONE_RUN:
        yield path[0]
        if key in SHARED:
            yield ""


def _list_parameters(command: TyperCommand) -> Iterator[tuple[Parameter, Kind]]:
    """Yield the parameters that can be settings, with what each takes."""
    assert command.callback is not None
    declared = inspect.signature(command.callback, eval_str=True).parameters
    for parameter in command.params:
        is_argument = isinstance(parameter, TyperArgument)
        if is_argument and parameter.name not in ARGUMENTS:
            continue
        if isinstance(parameter, TyperOption | TyperArgument) and parameter.name in declared:
            yield parameter, read_kind(declared[parameter.name].annotation)


def read_kind(annotation: Any) -> Kind:
    """Return what an annotated parameter of a command takes."""
    described = None
    if get_origin(annotation) is Annotated:
        annotation, described = get_args(annotation)[:2]
    if get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (part for part in get_args(annotation) if part is not types.NoneType)
    is_list = get_origin(annotation) is list
    of = get_args(annotation)[0] if is_list else annotation
    choices: tuple[str, ...] = ()
    if issubclass(of, Enum):
        choices, of = tuple(str(choice.value) for choice in of), str
    return Kind(
        of,
        is_list,
        least=getattr(described, "min", None),
        most=getattr(described, "max", None),
        choices=choices,
    )


def _show_default(parameter: Parameter) -> Any:
    """Return the default as the file would say it."""
    default = parameter.default
    if isinstance(default, Enum):
        return default.value
    if isinstance(default, Path):
        return str(default)
    return default


def _make_variable(key: str) -> str:
    return key.replace("-", "_").upper()
