"""``mesh models``: what can be served by name from this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.console import emit

if TYPE_CHECKING:
    from mesh.model.known_models import KnownModel

MIB = 1 << 20


def models(
    directory: Annotated[
        list[Path] | None,
        typer.Option("--dir", help="Also look here for model folders and GGUF files; again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the models that MODEL of the other commands can name.

    They are the shipped one, those of packages, folders and GGUF files of the working directory,
    and the Hugging Face cache. A name at Hugging Face that is not listed is downloaded when used.
    """
    from mesh.model.known_models import list_known_models
    from subnet.errors import ConfigError

    for wanted in directory or ():
        if not wanted.is_dir():
            raise ConfigError(f"--dir: {wanted} is not a folder", "name a folder of models")
    found = list_known_models(directory or [Path(".")])
    emit(json.dumps({"models": [_describe(each) for each in found]}) if as_json else _show(found))


def _describe(model: KnownModel) -> dict[str, object]:
    fields = asdict(model)
    blocks = fields.pop("num_layers")
    return {**fields, "num_blocks": blocks, "can_be_served": model.problem is None}


def _show(found: list[KnownModel]) -> str:
    rows = [("model", "from", "blocks", "context", "weights", "")]
    rows += [
        (
            model.name,
            model.source,
            "-" if model.num_layers is None else str(model.num_layers),
            "-" if model.max_context is None else str(model.max_context),
            f"{model.size_bytes / MIB:.1f} MiB" if model.size_bytes else "-",
            model.note if model.problem is None else f"cannot be served: {model.problem}",
        )
        for model in found
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
