"""Parses a command line as our programs do, without running the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from subnet.cli.arguments import MULTI_VALUE, normalise_arguments
from subnet.cli.mesh import app as mesh_app
from subnet.cli.mesh_test import app as node_app

APPS = {"mesh": mesh_app, "mesh-test": node_app}


def check_line(program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the command that the line names. Fails for a line that is wrong."""
    line = normalise_arguments(arguments, multi_value=MULTI_VALUE)
    command: Any = typer.main.get_command(APPS[program])
    context: Any = None
    while True:
        context = command.make_context(program, list(line), parent=context)
        if not hasattr(command, "resolve_command"):
            return dict(context.params)
        words = [*context._protected_args, *context.args]
        program, command, line = command.resolve_command(context, words)
