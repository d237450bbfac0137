"""Tensors of a GGUF file by their Hugging Face names, dequantised as they are read.

A type's blocks lie within rows, so any rows can be read alone: a hoster reads its layers, an
auditor one layer or some rows of the embedding, and pieces of a few MiB are widened at a time.

llama.cpp turns the rows of query and key weights of its architecture ``llama`` within each head,
for another form of rotary positions; they are read in the order that transformers computes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    dequantize,
    get_tensor_name_map,
)
from numpy.typing import NDArray

from mesh.errors import ModelError, ModelFilesMissing, QuantisedCheckpoint
from mesh.model.config import ModelConfig
from mesh.model.gguf_file import GgufFile, GgufTensor, read_gguf
from mesh.model.tensors import TensorEntry

PIECE_VALUES = 1 << 20
"""Values that are dequantised at once."""
PLAIN_DTYPES = {
    GGMLQuantizationType.F32: "F32",
    GGMLQuantizationType.BF16: "BF16",
    GGMLQuantizationType.F16: "F16",
}
"""Types whose stored bytes are the values; all others are served as float32."""
TURNED_ARCHITECTURE = "llama"


@dataclass(frozen=True, slots=True)
class GgufRows:
    """The rows of one tensor in a file, at ``begin``. A vector has rows of one value.

    ``turned_heads`` is how many heads have their rows turned; 0 for none.
    """

    file: Path
    kind: GGMLQuantizationType
    begin: int
    rows: int
    row_bytes: int
    columns: int
    turned_heads: int = 0

    @property
    def piece_rows(self) -> int:
        """Rows of one piece."""
        return max(1, PIECE_VALUES // self.columns)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return these rows as float32 [rows, columns]."""
        return self._widen(self._load(rows))

    def iterate(self) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in order, in pieces of ``piece_rows`` as float32."""
        return map(self._widen, self._iterate_stored())

    def iterate_served(self) -> Iterator[bytes]:
        """Yield the little-endian bytes of the values served, in order."""
        if self.kind in PLAIN_DTYPES:
            return (piece.tobytes() for piece in self._iterate_stored())
        return (piece.astype("<f4", copy=False).tobytes() for piece in self.iterate())

    def _iterate_stored(self) -> Iterator[NDArray[np.uint8]]:
        for begin in range(0, self.rows, self.piece_rows):
            yield self._load(np.arange(begin, min(begin + self.piece_rows, self.rows)))

    def _load(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        stored = np.memmap(
            self.file, np.uint8, "r", offset=self.begin, shape=(self.rows, self.row_bytes)
        )
        loaded: NDArray[np.uint8] = np.asarray(stored[self._place(rows)])
        return loaded

    def _place(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where rows are stored: a head's first half at even places, its second at odd."""
        if not self.turned_heads:
            return rows
        dim = self.rows // self.turned_heads
        head, place = rows // dim, rows % dim
        return head * dim + place % (dim // 2) * 2 + place // (dim // 2)

    def _widen(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        # What is not finite stays so, as in any other checkpoint; numpy need not warn of it.
        with np.errstate(all="ignore"):
            values: NDArray[np.float32] = dequantize(stored, self.kind)
        return values.reshape(-1, self.columns)


def locate_gguf_tensors(
    path: Path, config: ModelConfig, names: Iterable[str]
) -> dict[str, TensorEntry]:
    """Find these tensors. Raises ModelFilesMissing, QuantisedCheckpoint or ModelError."""
    file = read_gguf(path)
    return {name: _make_entry(file, config, name) for name in names}


def _make_entry(file: GgufFile, config: ModelConfig, name: str) -> TensorEntry:
    architecture = str(file.fields.get("general.architecture"))
    stored_name = get_gguf_name(architecture, name)
    heads = _count_turned_heads(architecture, config, name)
    tensor = _find_tensor(file, stored_name)
    rows = _make_rows(file.path, tensor, heads)
    if heads and rows.rows % (2 * heads):
        raise ModelError(f"{file.path.name}: {stored_name} has no even rows for {heads} heads")
    dtype = PLAIN_DTYPES.get(tensor.kind, "F32")
    return TensorEntry(name, file.path, dtype, tensor.shape, tensor.begin, tensor.end, rows)


def read_vector(file: GgufFile, name: str, length: int) -> NDArray[np.float32]:
    """Return a vector by its name in the file. Raises ModelError for another shape."""
    tensor = _find_tensor(file, name)
    if tensor.shape != (length,):
        raise ModelError(f"{file.path.name}: {name} has the shape {tensor.shape}, not ({length},)")
    return np.concatenate([*_make_rows(file.path, tensor, 0).iterate()]).ravel()


def _find_tensor(file: GgufFile, name: str) -> GgufTensor:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ModelFilesMissing(f"{file.path.name} has no tensor {name}")
    if not can_dequantise(tensor.kind):
        raise QuantisedCheckpoint(
            f"{file.path.name}: {name} is stored as {tensor.kind.name}, which cannot be dequantised"
        )
    return tensor


def _make_rows(path: Path, tensor: GgufTensor, turned_heads: int) -> GgufRows:
    block_values, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    is_vector = len(tensor.shape) == 1 and block_values == 1
    columns = 1 if is_vector else tensor.shape[-1]
    row_bytes = columns // block_values * block_bytes
    rows = (tensor.end - tensor.begin) // row_bytes
    return GgufRows(path, tensor.kind, tensor.begin, rows, row_bytes, columns, turned_heads)


def _count_turned_heads(architecture: str, config: ModelConfig, name: str) -> int:
    if architecture != TURNED_ARCHITECTURE:
        return 0
    if ".q_proj." in name:
        return config.num_heads
    return config.num_kv_heads if ".k_proj." in name else 0


def get_gguf_name(architecture: str, name: str) -> str:
    """Return what llama.cpp calls a tensor of this Hugging Face name."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    is_layer = parts[:2] == ["model", "layers"]
    if is_layer:
        layer, parts[2] = parts[2], "0"
    stored = _name_module(architecture, ".".join(parts))
    return f"{stored.replace('.0.', f'.{layer}.', 1) if is_layer else stored}.{kind}"


@cache
def _name_module(architecture: str, module: str) -> str:
    """Return the name of a module of layer 0, or outside the layers."""
    (known,) = (key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    name = get_tensor_name_map(known, 1).get_name(module)
    if name is None:
        raise ValueError(f"{module} has no name in a GGUF file of {architecture}")
    return str(name)


@cache
def can_dequantise(kind: GGMLQuantizationType) -> bool:
    """Whether gguf can dequantise blocks of this type: tried on one block of zeros."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
