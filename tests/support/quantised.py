"""Shards, runs and manifests of quantised checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mesh.model.attention import Segment
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.manifest import ModelManifest, build_manifest, check_manifest
from mesh.model.weights import ShardWeights, load_shard
from tests.support.calibrations import make_calibration

CONSTANTS = {"challenge_positions": 16}


def load(folder: Path, quant_type: str, dtype: str = "float32") -> ShardWeights:
    """Load all six layers."""
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    return load_shard(located, config, start=0, end=6, dtype=dtype, quant_type=quant_type)


def run(shard: ShardWeights) -> Tensor:
    """Return the logits of a prompt of 16 tokens."""
    runner = ShardRunner(shard, cache_tokens=32)
    with torch.inference_mode():
        x = runner.embed(range(3, 19))
        hidden = runner.forward(x, [Segment(0, 16, pages=(0,), position=0)], start=0, end=6)
        return runner.compute_logits(hidden, are_decodes=False)


def measure_distance(found: Tensor, expected: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((found - expected).norm() / expected.norm())


def make_manifest(folder: Path, quant_type: str) -> ModelManifest:
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    return build_manifest(
        located,
        config,
        model_name="tiny",
        revision="r",
        constants=CONSTANTS,
        calibration=make_calibration(6),
        quant_type=quant_type,
    )


def check(
    manifest: ModelManifest,
    folder: Path,
    quant_type: str,
    *,
    span: tuple[int, int] = (0, 6),
    served_dtype: str = "float32",
) -> None:
    """Raise ManifestMismatch where a range would serve something else."""
    check_manifest(
        manifest,
        resolve_model_folder(str(folder)),
        load_config(folder),
        start=span[0],
        end=span[1],
        served_dtype=served_dtype,
        constants=CONSTANTS,
        quant_type=quant_type,
    )
