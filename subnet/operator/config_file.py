"""The configuration file: where it is, and what it says, before anything is made of it.

It is TOML. Its keys and tables are those of ``subnet.cli.settings``.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subnet.errors import ConfigError

CONFIG_NAME = "mesh.toml"
CONFIG_VARIABLE = "MESH_CONFIG"
HOME_VARIABLE = "MESH_HOME"
MAX_CONFIG_BYTES = 1 << 16
_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says, as tomllib reads it. ``lines`` are those of (table, key), as far as known.

    The table of what stands before the first header is empty.
    """

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def get_table(self, table: str) -> Mapping[str, Any]:
        """Return what stands in a table; empty where it has none of that name."""
        found = self.values.get(table, {}) if table else self.values
        return found if isinstance(found, dict) else {}

    def locate(self, table: str, key: str) -> str:
        """Return the file and the line in which a key stands."""
        line = self.lines.get((table, key))
        return str(self.path) if line is None else f"{self.path}:{line}"


def find_config_path(named: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return the file to read; None if there is none.

    ``named`` on the command line comes first, then MESH_CONFIG; either is there or is refused when
    it is read. Then ``mesh.toml`` in MESH_HOME, or, without that variable, in the user's
    configuration folder (XDG_CONFIG_HOME).
    """
    if named is not None:
        return named
    if environment.get(CONFIG_VARIABLE):
        return Path(environment[CONFIG_VARIABLE])
    if environment.get(HOME_VARIABLE):
        path = Path(environment[HOME_VARIABLE]) / CONFIG_NAME
    else:
        from platformdirs import user_config_path

        path = user_config_path("mesh") / CONFIG_NAME
    return path if path.exists() else None


def read_config_file(path: Path) -> ConfigFile:
    """Return what a file says. Raises ConfigError. ``/dev/null`` says nothing."""
    if str(path) == os.devnull:
        return ConfigFile(path)
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"the configuration file {path} is no TOML: {error}", "correct that line"
        ) from error
    return ConfigFile(path, values, _find_lines(text))


def _read_text(path: Path) -> str:
    try:
        # Not blocking: a named pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {path}: {error.strerror}",
            "name one that you can read with --config or MESH_CONFIG, or unset that variable",
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"the configuration file {path} is no file", "name a text file")
        if mode & stat.S_IWOTH:
            raise ConfigError(
                f"the configuration file {path} can be changed by every user of this machine",
                f"run chmod o-w {path}",
            )
        with open(descriptor, "rb", closefd=False) as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"the configuration file {path} is longer than {MAX_CONFIG_BYTES} bytes",
            "name the file that you mean",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration file {path} is not UTF-8: {error.reason}", "save it as UTF-8"
        ) from error


def _find_lines(text: str) -> dict[tuple[str, str], int]:
    """Return the lines in which keys stand; of one that is found twice, in a text, none."""
    found: dict[tuple[str, str], int] = {}
    doubtful = set()
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        key = _KEY.match(line)
        if header is not None:
            table = header.group(1)
            place = ("", table)
        elif key is not None:
            place = (table, key.group(1))
        else:
            continue
        doubtful |= {place} & found.keys()
        found[place] = number
    return {place: number for place, number in found.items() if place not in doubtful}
