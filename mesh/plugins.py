"""Plug-ins by entry points, and which code each one is.

A plug-in is a Python package with an entry point in one of three groups: ``mesh.scorers``,
``mesh.probes`` or ``mesh.families``. Its stamp, that is name, version and SHA-256 of its files,
enters the model's manifest, so nodes with other code are in another network. The digest is
computed before anything of the package is imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from mesh.errors import PluginFailed, PluginNotFound

MAX_FILES = 1000
MAX_BYTES = 16 << 20
"""Files, and bytes in all, of one plug-in's package."""
MAX_NAME = 64
_TAG = b"mesh/plugin"


class PluginKind(StrEnum):
    """What a plug-in decides."""

    SCORER = "scorer"
    PROBE = "probe"
    FAMILY = "family"

    @property
    def group(self) -> str:
        """The entry point group."""
        return {"scorer": "mesh.scorers", "probe": "mesh.probes", "family": "mesh.families"}[self]


@dataclass(frozen=True, slots=True)
class PluginStamp:
    """Which code a plug-in is: its name, its package's version and the SHA-256 hex of its files."""

    name: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.digest[:12]})"

    def describe(self) -> dict[str, str]:
        """Return the stamp as a manifest states it."""
        return {"name": self.name, "version": self.version, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that is installed. ``value`` is the entry point's ``package.module:attribute``."""

    kind: PluginKind
    stamp: PluginStamp
    value: str


def parse_stamps(value: Mapping[str, Any]) -> dict[PluginKind, PluginStamp]:
    """Return the stamps that a manifest states. Raises ValueError, KeyError or TypeError."""
    stamps = {}
    for kind, fields in value.items():
        if set(fields) != {"name", "version", "digest"}:
            raise ValueError("a plug-in has a name, a version and a digest")
        name, version, digest = str(fields["name"]), str(fields["version"]), str(fields["digest"])
        if max(len(name), len(version)) > MAX_NAME or len(bytes.fromhex(digest)) != 32:
            raise ValueError("a plug-in's name, version or digest has another length")
        stamps[PluginKind(kind)] = PluginStamp(name, version, digest)
    return stamps


def find_plugin(kind: PluginKind, name: str) -> Plugin:
    """Return the installed plug-in of this name, without importing it.

    Raises PluginNotFound where none is installed, and PluginFailed where two are or its files
    cannot be read.
    """
    found = importlib.metadata.entry_points(group=kind.group, name=name)
    if not found:
        raise PluginNotFound(kind, name, list_plugin_names(kind))
    points = {(point.value, _get_version(point)): point for point in found}
    if len(points) > 1:
        raise PluginFailed(kind, name, "two installed packages have a plug-in of this name")
    (point,) = points.values()
    stamp = PluginStamp(name, _get_version(point), compute_digest(kind, name, point.module))
    return Plugin(kind, stamp, point.value)


def list_plugin_names(kind: PluginKind) -> tuple[str, ...]:
    """Return the names of the installed plug-ins of one kind."""
    return tuple(sorted({p.name for p in importlib.metadata.entry_points(group=kind.group)}))


def load_plugin(plugin: Plugin) -> Any:
    """Import the plug-in and return what its entry point names. Raises PluginFailed."""
    point = importlib.metadata.EntryPoint(plugin.stamp.name, plugin.value, plugin.kind.group)
    try:
        return point.load()
    except Exception as error:
        raise PluginFailed(plugin.kind, plugin.stamp.name, describe_error(error)) from error


@cache
def compute_digest(kind: PluginKind, name: str, module: str) -> str:
    """Return the SHA-256 hex of the files of the package that ``module`` belongs to.

    Paths and contents are hashed, in the order of the paths; compiled files are left out.
    """
    package = module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PluginFailed(kind, name, f"its package {package} has no files")
    origin = Path(spec.origin)
    is_package = spec.submodule_search_locations is not None
    root = origin.parent
    files = sorted(_list_files(root)) if is_package else [origin]
    if len(files) > MAX_FILES or sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise PluginFailed(
            kind, name, f"its package has more than {MAX_FILES} files or {MAX_BYTES} bytes"
        )
    digest = hashlib.sha256(_TAG)
    for file in files:
        path, body = file.relative_to(root).as_posix().encode(), file.read_bytes()
        digest.update(len(path).to_bytes(4, "little") + path)
        digest.update(len(body).to_bytes(8, "little") + body)
    return digest.hexdigest()


def _list_files(root: Path) -> list[Path]:
    files = []
    for file in root.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
            files.append(file)
            if len(files) > MAX_FILES:
                break
    return files


def _get_version(point: importlib.metadata.EntryPoint) -> str:
    return "unknown" if point.dist is None else point.dist.version[:MAX_NAME]


def describe_error(error: BaseException) -> str:
    """Return an exception of a plug-in in one short printable line."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    return f"it raised {type(error).__name__}: {text[:200]}"
