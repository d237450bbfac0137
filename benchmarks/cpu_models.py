"""The models of cpu_peers.py: checkpoints in bfloat16, and GGUF files of the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file

from benchmarks.swarm import TINYLLAMA, Shape, make_checkpoint
from tests.support.gguf_files import write_gguf
from tests.support.smollm2 import fetch_smollm2

LARGE = Shape(
    "TinyLlama-1.1B's shape, random weights",
    "bfloat16",
    TINYLLAMA,
    rounds=3,
    new=16,
)


@dataclass(frozen=True)
class Model:
    """A checkpoint's folder, and llama.cpp's files."""

    name: str
    folder: Path
    bf16_gguf: Path
    q4_gguf: Path

    def make_prompt(self, tokens: int) -> list[int]:
        return [5 + (i * 37) % 1000 for i in range(tokens)]


def make_small(scratch: Path) -> Model:
    """SmolLM2-135M-Instruct: its own file in Q4_1, and what it is dequantised to, in bfloat16."""
    stored, folder = fetch_smollm2(), scratch / "smollm2"
    if not (folder / "config.json").is_file():
        _dequantise(stored, folder)
    bf16 = _write(folder, "bf16.gguf", GGMLQuantizationType.BF16)
    return Model("SmolLM2-135M-Instruct", folder, bf16, stored)


def make_large(scratch: Path) -> Model:
    """TinyLlama's shape with random weights."""
    folder = scratch / "tinyllama"
    if not (folder / "config.json").is_file():
        make_checkpoint(LARGE, folder)
    bf16 = _write(folder, "bf16.gguf", GGMLQuantizationType.BF16)
    q4 = _write(folder, "q4_1.gguf", GGMLQuantizationType.Q4_1)
    return Model(LARGE.name, folder, bf16, q4)


def _write(folder: Path, name: str, kind: GGMLQuantizationType) -> Path:
    # Beside the folder: one with a GGUF file in it is a GGUF model.
    target = folder.with_name(f"{folder.name}-{name}")
    if not target.is_file():
        part = target.with_suffix(".part")
        write_gguf(folder, part, kind=kind)
        part.rename(target)
    return target


def _dequantise(path: Path, folder: Path) -> None:
    """Write a GGUF file's values as a checkpoint in bfloat16."""
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.gguf_config import describe_fields
    from mesh.model.gguf_file import read_gguf
    from mesh.model.tensors import list_range_tensors, locate_tensors

    config, located = load_config(path), resolve_model_folder(str(path))
    names = list_range_tensors(config, 0, config.num_layers)
    tensors = {}
    for name, entry in locate_tensors(located, config, names).items():
        assert entry.gguf_rows is not None
        pieces = [torch.from_numpy(piece) for piece in entry.gguf_rows.iterate()]
        tensors[name] = torch.cat(pieces).reshape(entry.shape).to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {**describe_fields(read_gguf(path)), "model_type": "llama", "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
