"""Which model a subnet serves: the manifest hash on chain, and whether our weights fit it.

`mesh manifest` makes a manifest, which takes minutes for a large model because it calibrates. A
node only finds one: in its data folder, beside the model, or with a peer, by the hash on chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from consensus.challenge import ModelShape
from consensus.protocol_params import ConsensusParams
from consensus.types import LayerRange
from keys.peer import PeerId
from mesh.errors import ManifestMismatch, ManifestNotFound, ModelError, PeerError
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.config import ModelConfig
from mesh.model.files import ModelFolder
from mesh.model.manifest import (
    MAX_MANIFEST_BYTES,
    ModelManifest,
    build_manifest,
    check_manifest,
    decode_manifest,
)
from mesh.model.margins import Calibration, check_margins
from mesh.p2p.interface import Host
from mesh.routing.manifest_exchange import fetch_manifest_body
from subnet.epoch.hoster import build_tasks
from subnet.epoch.interfaces import LayerTask

MANIFEST_FILES = {
    "none": "mesh-manifest.json",
    "int8": "mesh-manifest-int8.json",
    "int4": "mesh-manifest-int4.json",
}
"""The manifest's file beside the model, by quantisation."""
CALIBRATION_CHALLENGES = 3
_CALIBRATION_TAG = b"mesh/calibration"

logger = structlog.get_logger(__name__)


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


def make_shape(model: ModelConfig, manifest: ModelManifest | None = None) -> ModelShape:
    """Return the model's shape, with the scales that its manifest states."""
    scales = () if manifest is None else manifest.calibration.scales
    return ModelShape(model.num_layers, model.hidden_size, model.vocab_size, scales)


def calibrate_model(
    folder: ModelFolder,
    model: ModelConfig,
    *,
    params: ConsensusParams,
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> Calibration:
    """Measure scales and margins of a complete model folder (seconds a layer).

    Raises MarginTooSmall where honest work and cheats stand too near the tolerance, or ModelError.
    """
    # Here only: reading a manifest needs no torch.
    from mesh.model.calibrate import calibrate

    calibration = calibrate(
        folder,
        model,
        draw_calibration_tasks(make_shape(model), params),
        fixed_point_bits=params.fixed_point_bits,
        value_bound_bits=params.value_bound_bits,
        quant_type=quant_type,
        check_wanted=check_wanted,
    )
    check_margins(calibration, tolerance_bits=params.tolerance_bits)
    return calibration


def draw_calibration_tasks(
    shape: ModelShape, params: ConsensusParams
) -> tuple[tuple[LayerTask, ...], ...]:
    """Return the challenges that calibration runs, each with one task a challenged layer."""
    seeds = (hashlib.sha256(_CALIBRATION_TAG + bytes([k])) for k in range(CALIBRATION_CHALLENGES))
    whole = LayerRange(0, shape.num_layers)
    return tuple(build_tasks(seed.digest(), whole, shape, params) for seed in seeds)


def build_own_manifest(
    folder: ModelFolder,
    model: ModelConfig,
    *,
    params: ConsensusParams,
    calibration: Calibration,
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
        calibration=calibration,
        quant_type=quant_type,
        check_wanted=check_wanted,
    )


def find_manifest(
    folder: ModelFolder, *, manifest_hash: bytes, kept_in: Path
) -> ModelManifest | None:
    """Return the manifest with this hash, kept by this node or beside the model; None if neither.

    Raises NotCalibrated for one with this hash that an earlier version made.
    """
    for path in (
        kept_in / MANIFEST_FILES["none"],
        *(folder.path / name for name in MANIFEST_FILES.values()),
    ):
        body = read_manifest_file(path)
        if body is not None and hashlib.sha256(body).digest() == manifest_hash:
            return decode_manifest(body)
    return None


def find_fitting_manifest(
    folder: ModelFolder,
    model: ModelConfig,
    *,
    params: ConsensusParams,
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> ModelManifest | None:
    """Return the manifest beside a complete model folder if every weight fits it, else None."""
    try:
        manifest = load_own_manifest(folder, quant_type)
        check_manifest(
            manifest,
            folder,
            model,
            start=0,
            end=model.num_layers,
            served_dtype="float32",
            constants=describe_constants(params),
            quant_type=quant_type,
            check_wanted=check_wanted,
        )
    except ManifestMismatch:
        return None
    return manifest


def load_own_manifest(folder: ModelFolder, quant_type: str = "none") -> ModelManifest:
    """Read the manifest beside the model. Raises ManifestNotFound or ModelError."""
    body = read_manifest_file(folder.path / MANIFEST_FILES[quant_type])
    if body is None:
        raise ManifestNotFound(f"{MANIFEST_FILES[quant_type]} is not in {folder.path}")
    return decode_manifest(body)


async def fetch_manifest(
    host: Host, peers: Sequence[PeerId], manifest_hash: bytes
) -> ModelManifest | None:
    """Ask one peer after the other for the manifest with this hash; None if none has it.

    Raises NotCalibrated for one that an earlier version made.
    """
    for peer in peers:
        try:
            return decode_manifest(await fetch_manifest_body(host, peer, manifest_hash))
        except PeerError as error:
            logger.debug("a peer gives no manifest", detail=str(error))
    return None


def keep_manifest(manifest: ModelManifest, kept_in: Path) -> None:
    """Write a manifest that came from a peer, for the next start; what fails is only logged."""
    try:
        (kept_in / MANIFEST_FILES["none"]).write_bytes(manifest.body)
    except OSError as error:
        logger.warning("the manifest cannot be kept", detail=str(error))


def read_manifest_file(path: Path) -> bytes | None:
    """Return a file's bytes; None if it is not there. Raises ModelError for a long one."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ModelError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes: it is no manifest")
    return path.read_bytes()
