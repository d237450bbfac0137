"""Which model a subnet serves: the manifest hash on chain, and whether our weights fit it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from consensus.protocol_params import ConsensusParams
from mesh.errors import ManifestMismatch
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.config import ModelConfig
from mesh.model.files import ModelFolder
from mesh.model.manifest import (
    MAX_MANIFEST_BYTES,
    ModelManifest,
    build_manifest,
    decode_manifest,
)

MANIFEST_FILE = "mesh-manifest.json"


def describe_constants(params: ConsensusParams) -> Mapping[str, int]:
    """Return the protocol's numbers that a manifest fixes."""
    return {
        "challenge_positions": params.challenge_positions,
        "max_vector_coordinates": params.max_vector_coordinates,
        "head_rows": params.head_rows,
        "fixed_point_bits": params.fixed_point_bits,
        "residual_bits": params.residual_bits,
        "value_bound_bits": params.value_bound_bits,
        "tolerance_bits": params.tolerance_bits,
    }


def build_own_manifest(
    folder: ModelFolder,
    model: ModelConfig,
    *,
    params: ConsensusParams,
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> ModelManifest:
    """Hash every tensor of a complete model folder, as it is served. Raises ModelError."""
    return build_manifest(
        folder,
        model,
        model_name=folder.name,
        revision=folder.revision,
        constants=describe_constants(params),
        quant_type=quant_type,
        check_wanted=check_wanted,
    )


def find_manifest(
    folder: ModelFolder,
    model: ModelConfig,
    *,
    manifest_hash: bytes,
    params: ConsensusParams,
    kept_in: Path,
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> ModelManifest:
    """Return the manifest with this hash: kept, beside the model, or made from the weights.

    Those are taken as ``quant_type`` serves them: a quantised model has its own manifest.

    Raises ManifestMismatch if none of them has the hash, ModelError.
    """
    for path in (kept_in / MANIFEST_FILE, folder.path / MANIFEST_FILE):
        manifest = _read_manifest(path)
        if manifest is not None and manifest.manifest_hash == manifest_hash:
            return manifest
    manifest = build_own_manifest(
        folder, model, params=params, quant_type=quant_type, check_wanted=check_wanted
    )
    if manifest.manifest_hash != manifest_hash:
        raise ManifestMismatch(
            f"{folder.name}{_name_quantisation(quant_type)} is not the model of this subnet: "
            f"its manifest is {manifest.manifest_hash.hex()}, on chain stands {manifest_hash.hex()}"
        )
    return manifest


def _name_quantisation(quant_type: str) -> str:
    return "" if quant_type == "none" else f" in {quant_type}"


def _read_manifest(path: Path) -> ModelManifest | None:
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    return decode_manifest(path.read_bytes())
