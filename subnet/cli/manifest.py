"""``mesh manifest``: the hash of a model's weights, which a subnet registers on the chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subnet.cli.console import emit


def manifest(
    model: Annotated[str, typer.Argument(help="Hugging Face name, or a local folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write the manifest itself to this new file.")
    ] = None,
    quant_type: Annotated[
        str, typer.Option(help="none, or int8 for a subnet whose hosters serve int8 weights.")
    ] = "none",
) -> None:
    """Hash a model's weights and print the manifest's hash.

    The subnet's owner registers it in misc; nodes whose weights differ refuse to start.
    """
    from consensus.protocol_params import MAINNET
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from subnet.errors import ConfigError
    from subnet.hosting.manifest import build_own_manifest
    from subnet.operator.config import check_quant_type

    quantisation = check_quant_type(quant_type)
    folder = resolve_known_model(model)
    made = build_own_manifest(
        folder, load_config(folder.path), params=MAINNET, quant_type=quantisation
    )
    if out is not None:
        try:
            with out.open("xb") as file:
                file.write(made.body)
        except FileExistsError as error:
            raise ConfigError(f"{out} exists", "choose another file for --out") from error
        except OSError as error:
            raise ConfigError(
                f"cannot write {out}: {error.strerror}", "choose another file for --out"
            ) from error
    emit(made.manifest_hash.hex())
