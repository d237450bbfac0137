"""``mesh manifest``: the hash of a model's weights and margins, which a subnet registers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.console import emit
from subnet.cli.options import AsJson, Offline

if TYPE_CHECKING:
    from mesh.model.manifest import ModelManifest


def manifest(
    model: Annotated[
        str, typer.Argument(help="Hugging Face name, a local folder, or a GGUF file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the manifest to this new file, not beside the model."),
    ] = None,
    quant_type: Annotated[
        str,
        typer.Option(help="none, or int8 or int4 for a subnet whose hosters serve such weights."),
    ] = "none",
    scorer: Annotated[
        str | None, typer.Option(help="The plug-in that divides hosters' pay in this subnet.")
    ] = None,
    probe: Annotated[
        str | None, typer.Option(help="The plug-in that probes hosters in this subnet.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Calibrate anew, although a fitting manifest is there.")
    ] = False,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Make a model's manifest and print its hash.

    It hashes the weights and calibrates: how far honest machines differ on every block, and how
    far cheats stand out. It is written beside the model, where nodes find it; others get it from
    their peers. The subnet's owner registers the hash in misc; nodes whose weights differ refuse
    to start. Where a fitting manifest lies beside the model, its hash is printed at once. Plug-ins
    enter it by name, version and digest, so nodes with other code refuse to start too.
    """
    from consensus.protocol_params import MAINNET
    from mesh.inference.threads import wait_passively
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.model.manifest import add_plugins
    from subnet.hosting.manifest import (
        MANIFEST_FILES,
        build_own_manifest,
        calibrate_model,
        find_fitting_manifest,
    )
    from subnet.operator.config import check_quant_type
    from subnet.plugins.chosen import find_stamps

    # Before torch is loaded: calibration runs several processes.
    wait_passively()
    quantisation = check_quant_type(quant_type)
    folder = resolve_known_model(model)
    config = load_config(folder.source)
    plugins = find_stamps(config.architecture, scorer=scorer, probe=probe)
    target = out or folder.path / MANIFEST_FILES[quantisation]
    _check_target(target, is_new=out is not None)
    made = None
    if not again:
        made = find_fitting_manifest(folder, config, params=MAINNET, quant_type=quantisation)
    found = made
    made = add_plugins(
        made
        or build_own_manifest(
            folder,
            config,
            params=MAINNET,
            calibration=calibrate_model(folder, config, params=MAINNET, quant_type=quantisation),
            quant_type=quantisation,
        ),
        plugins,
    )
    if made != found or out is not None:
        _write(made, target, is_new=out is not None)
    made_hash = made.manifest_hash.hex()
    emit(json.dumps({"manifest_hash": made_hash, "file": str(target)}) if as_json else made_hash)


def _check_target(target: Path, *, is_new: bool) -> None:
    """Raise ConfigError before minutes of work for a file that cannot be written."""
    from subnet.errors import ConfigError

    if is_new and target.exists():
        raise ConfigError(f"{target} exists", "choose another file for --out")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is not a folder", "choose another file for --out")


def _write(made: ModelManifest, target: Path, *, is_new: bool) -> None:
    from subnet.errors import ConfigError

    try:
        with target.open("xb" if is_new else "wb") as file:
            file.write(made.body)
    except FileExistsError as error:
        raise ConfigError(f"{target} exists", "choose another file for --out") from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {target}: {error.strerror}", "name another file with --out FILE"
        ) from error
