"""``mesh plugins``: what is installed of plug-ins, and which code each one is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from subnet.cli.console import emit


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the installed scorers, probes and model families, with version and digest.

    The digest is that of the package's files; a subnet's manifest states it.
    """
    from mesh.plugins import PluginKind, find_plugin, list_plugin_names

    found = [find_plugin(kind, name) for kind in PluginKind for name in list_plugin_names(kind)]
    if as_json:
        rows = [{"kind": one.kind.value, **one.stamp.describe()} for one in found]
        emit(json.dumps({"plugins": rows}))
        return
    for one in found:
        emit(f"{one.kind:<7} {one.stamp.name}  {one.stamp.version}  {one.stamp.digest}")
    if not found:
        emit("no plug-in is installed")
