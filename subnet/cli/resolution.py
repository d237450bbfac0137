"""Which value a setting has, and where it came from.

The order is flag, variable, file, default. Two settings that exclude each other are no
contradiction where they come from different sources: the weaker one is left out, so that a flag
goes before what the file says about its opposite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import Any

from subnet.cli.arguments import OLD_SPELLINGS
from subnet.cli.settings import Kind, Setting
from subnet.errors import ConfigError
from subnet.operator.config_file import ConfigFile

EXCLUDING = (
    ("hoster", "validator"),
    ("hoster", "light"),
    ("validator", "unpaid"),
    ("validator", "block-indices"),
    ("validator", "num-blocks"),
    ("validator", "quant-type"),
    ("new-swarm", "initial-peers"),
    ("port", "host-maddrs"),
    ("block-indices", "num-blocks"),
    ("no-metrics", "metrics-port"),
    ("no-metrics", "metrics-host"),
    ("no-metrics", "metrics-token-file"),
    ("alert-webhook", "alert-webhook-file"),
    ("key-file", "dev-account"),
)
"""Settings of which a command takes one."""
TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
FALSE = frozenset({"0", "false", "no", "off", "f", "n"})
MAX_SHOWN_KEY = 64


class Source(IntEnum):
    """Where a value comes from; the higher goes first."""

    DEFAULT = 0
    FILE = 1
    VARIABLE = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Value:
    """A value as typer takes it. ``place`` is the flag, the variable, or the file with the line."""

    setting: Setting
    value: Any
    source: Source
    place: str = ""

    def describe_origin(self) -> str:
        """Return where the value comes from, for people."""
        if self.source is Source.FILE:
            return self.place
        return f"{self.source.name.lower()} {self.place}".strip()


def resolve(
    mapped: Mapping[str, tuple[Setting, ...]],
    *,
    given: AbstractSet[str],
    environment: Mapping[str, str],
    file: ConfigFile | None,
) -> dict[str, Value]:
    """Return what variables and file say of a command's parameters.

    ``mapped`` are the settings of each parameter, ``given`` the parameters that are on the command
    line: these have no other value. Raises ConfigError for a variable or a value in the file that
    the setting does not take.
    """
    found = {}
    for name, settings in mapped.items():
        value = find_value(settings, environment=environment, file=file)
        if value is not None and name not in given:
            found[name] = value
    # What is said not to be excludes nothing.
    sources = {
        value.setting.key: value.source for value in found.values() if value.value is not False
    }
    sources |= {mapped[name][0].key: Source.FLAG for name in given if name in mapped}
    weaker = {_find_weaker(pair, sources) for pair in EXCLUDING if sources.keys() >= set(pair)}
    return {name: value for name, value in found.items() if value.setting.key not in weaker}


def find_value(
    settings: Iterable[Setting], *, environment: Mapping[str, str], file: ConfigFile | None
) -> Value | None:
    """Return what the first of these variables says, else the first of these keys of the file.

    None if none is set. Raises ConfigError.
    """
    for setting in settings:
        text = environment.get(setting.variable)
        # As with other programs, an empty variable is no value.
        if text:
            return Value(setting, parse_variable(setting, text), Source.VARIABLE, setting.variable)
    for setting in settings:
        if file is not None and setting.key in file.get_table(setting.table):
            value = _take_from_file(setting, file.get_table(setting.table)[setting.key], file)
            return Value(setting, value, Source.FILE, file.locate(setting.table, setting.key))
    return None


def parse_variable(setting: Setting, text: str) -> Any:
    """Return what a variable says. Raises ConfigError."""
    kind = setting.kind
    value: Any = None
    if kind.is_list:
        value = text.split()
    elif kind.of is bool:
        lowered = text.strip().lower()
        value = True if lowered in TRUE else False if lowered in FALSE else None
    elif kind.of in (int, float):
        try:
            value = kind.of(text)
        except ValueError:
            value = None
    else:
        value = text
    _check(kind, value, setting.variable)
    return value


def check_file(file: ConfigFile, settings: Iterable[Setting]) -> None:
    """Raise ConfigError for the first key that is unknown, or whose value the setting refuses."""
    known = {(setting.table, setting.key): setting for setting in settings}
    tables = {table for table, _ in known if table}
    for name, value in file.values.items():
        if isinstance(value, dict) and ("", name) not in known:
            if name not in tables:
                raise _refuse_unknown(file, "", name, known, tables)
            for key, inner in value.items():
                _check_key(file, name, key, inner, known, tables)
        else:
            _check_key(file, "", name, value, known, tables)


def _check_key(
    file: ConfigFile,
    table: str,
    key: str,
    value: Any,
    known: Mapping[tuple[str, str], Setting],
    tables: AbstractSet[str],
) -> None:
    setting = known.get((table, key))
    if setting is None:
        raise _refuse_unknown(file, table, key, known, tables)
    _take_from_file(setting, value, file)


def _refuse_unknown(
    file: ConfigFile,
    table: str,
    key: str,
    known: Mapping[tuple[str, str], Setting],
    tables: AbstractSet[str],
) -> ConfigError:
    """Return the error that names the key, and the nearest one that exists."""
    shown = key[:MAX_SHOWN_KEY]
    where = f"[{table}] has no key {shown!r}" if table else f"there is no key {shown!r}"
    dashed = key.replace("_", "-")
    dashed = OLD_SPELLINGS.get(f"--{dashed}", f"--{dashed}").removeprefix("--")
    here = {name for inside, name in known if inside == table} | (tables if not table else set())
    elsewhere = [inside for inside, name in known if name == dashed and inside != table]
    near = get_close_matches(dashed, sorted(here), n=1)
    if dashed in here:
        hint = f"write {dashed}"
    elif elsewhere:
        places = ", ".join(f"[{inside}]" if inside else "the top" for inside in elsewhere)
        hint = f"{dashed} is a key of {places}: move it there"
    elif near:
        hint = f"the nearest is {near[0]}"
    else:
        hint = "`mesh config show` lists all keys"
    return ConfigError(f"{file.locate(table, key)}: {where}", hint)


def _take_from_file(setting: Setting, raw: Any, file: ConfigFile) -> Any:
    """Return the value as typer takes it. A path is relative to the file's folder."""
    kind = setting.kind
    is_right = {
        bool: isinstance(raw, bool),
        int: isinstance(raw, int) and not isinstance(raw, bool),
        float: isinstance(raw, int | float) and not isinstance(raw, bool),
    }.get(kind.of, isinstance(raw, str))
    if kind.is_list:
        is_right = isinstance(raw, list) and all(isinstance(item, str) for item in raw)
    name = f"[{setting.table}] {setting.key}" if setting.table else setting.key
    where = f"{file.locate(setting.table, setting.key)}: {name}"
    _check(kind, raw if is_right else None, where)
    if kind.of is Path:
        return str(file.path.absolute().parent / Path(raw).expanduser())
    return raw


def _check(kind: Kind, value: Any, where: str) -> None:
    """Raise ConfigError unless the value is one of the kind; None is none. It is not shown."""
    is_right = value is not None and value != ""
    if is_right and kind.choices:
        is_right = value in kind.choices
    if is_right and kind.least is not None:
        is_right = value >= kind.least
    if is_right and kind.most is not None:
        is_right = value <= kind.most
    if not is_right:
        raise ConfigError(f"{where} must be {kind.describe()}", "correct it, or leave it out")


def _find_weaker(pair: tuple[str, str], sources: Mapping[str, Source]) -> str | None:
    """Return which of two settings gives way; None where both come from the same source."""
    first, second = (sources[key] for key in pair)
    return None if first == second else pair[first > second]
