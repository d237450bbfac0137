"""The weights of a layer range, read from safetensors or GGUF: only the tensors that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from mesh.errors import ModelError
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.capacity import check_device
from mesh.model.config import ModelConfig
from mesh.model.families import list_layer
from mesh.model.family import MATRICES, LayerTensor
from mesh.model.files import ModelFolder
from mesh.model.quantise import Int8Matrix, Matrix, hash_int8, join_rows, quantise
from mesh.model.tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    TensorEntry,
    list_range_tensors,
    locate_tensors,
    name_layer_tensor,
)

if TYPE_CHECKING:
    from mesh.model.gguf_tensors import GgufRows

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANT_TYPES = ("none", "int8")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer layer.

    Query, key and value are fused into ``qkv`` [(heads + 2 kv_heads) * head_dim, hidden] and gate
    and up into ``gate_up`` [2 * intermediate, hidden]: one matrix product instead of three or two.
    With a ``router`` [experts, hidden], gate_up and ``down`` have one matrix for each expert.
    """

    attention_norm: Tensor
    qkv: Matrix
    out: Matrix
    mlp_norm: Tensor
    gate_up: Matrix
    down: Matrix
    router: Tensor | None = None
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    def cast(self, dtype: torch.dtype) -> LayerWeights:
        """Return the layer in ``dtype``; tensors already in it are shared, not copied."""
        return self._map(
            lambda value: value.widen(dtype) if isinstance(value, Int8Matrix) else value.to(dtype)
        )

    def lay_out(self) -> LayerWeights:
        """Return the layer with its matrices stored as ``lay_out`` likes them."""
        return self._map(lay_out)

    def change_vectors(self, change: Callable[[Tensor], Tensor]) -> LayerWeights:
        """Return the layer with its norms and biases changed; matrices stay as they are."""
        return self._map(
            lambda value: (
                value if isinstance(value, Int8Matrix) or value.dim() > 1 else change(value)
            )
        )

    def change_matrices(self, change: Callable[[Tensor], Matrix]) -> LayerWeights:
        """Return the layer with the matrices changed that int8 quantises; here they are plain."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in MATRICES}
        return replace(self, **changed)

    def _map(self, change: Callable[[Matrix], Matrix]) -> LayerWeights:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in values.items()
        }
        return LayerWeights(**changed)


def lay_out(matrix: Matrix) -> Matrix:
    """Store a float32 matrix as ``lay_out_tensor`` does; an int8 one has its own kernels."""
    return matrix if isinstance(matrix, Int8Matrix) else lay_out_tensor(matrix)


def lay_out_tensor(tensor: Tensor) -> Tensor:
    """Store a float32 matrix on the CPU input-major; its shape stays [outputs, inputs].

    Measured on x86-64: one row is then 1.1 to 2.3 times as fast.
    """
    if tensor.dim() < 2 or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return tensor
    return tensor.mT.contiguous().mT


@dataclass(frozen=True, slots=True)
class ShardWeights:
    """What a hoster of layers ``[start, end)`` holds.

    ``embedding`` [vocabulary, hidden] is there when start is 0; ``final_norm`` [hidden] and
    ``head`` [vocabulary, hidden] when end is the model's last layer. Tied ones share memory.
    ``dtype`` is the activations'; with ``quant_type`` int8 the layers' matrices are Int8Matrix.
    """

    config: ModelConfig
    start: int
    end: int
    dtype: torch.dtype
    device: torch.device
    layers: tuple[LayerWeights, ...]
    embedding: Tensor | None
    final_norm: Tensor | None
    head: Tensor | None
    quant_type: str = "none"

    @property
    def served_dtype(self) -> str:
        """What a heartbeat says about the weights: ``int8`` or the type's name."""
        if self.quant_type != "none":
            return self.quant_type
        return str(self.dtype).removeprefix("torch.")

    def get_layer(self, layer: int) -> LayerWeights:
        """Return a served layer by its number in the model."""
        if not self.start <= layer < self.end:
            raise ValueError(f"layer {layer} is not in {self.start}:{self.end}")
        return self.layers[layer - self.start]


def load_shard(
    folder: ModelFolder,
    config: ModelConfig,
    *,
    start: int,
    end: int,
    dtype: str = "float32",
    device: str = "cpu",
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> ShardWeights:
    """Load layers ``[start, end)``, quantised as they are read if ``quant_type`` says so.

    Raises DeviceUnavailable before anything is read, LayerRangeOutsideModel, ModelFilesMissing or
    ModelError, and Abandoned between two tensors once ``check_wanted`` does.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
    if quant_type not in QUANT_TYPES:
        raise ModelError(f"quant type {quant_type} is not one of {', '.join(QUANT_TYPES)}")
    entries = locate_tensors(folder, config, list_range_tensors(config, start, end))
    with ExitStack() as stack:
        reader = TensorReader(
            stack,
            entries,
            dtype=DTYPES[dtype],
            device=torch.device(device),
            is_quantised=quant_type == "int8",
            check_wanted=check_wanted,
        )
        layers = tuple(load_layer(config, layer, reader).lay_out() for layer in range(start, end))
        is_last = end == config.num_layers
        embedding = reader.read(EMBEDDING, get_embedding_shape(config)) if start == 0 else None
        head = _load_head(config, reader, embedding) if is_last else None
        final_norm = reader.read(FINAL_NORM, (config.hidden_size,)) if is_last else None
        return ShardWeights(
            config,
            start,
            end,
            DTYPES[dtype],
            torch.device(device),
            layers,
            embedding,
            final_norm,
            head,
            quant_type,
        )


def hash_quantised(entry: TensorEntry) -> str:
    """SHA-256 hex of the int8 values and scales that this matrix is served as."""
    with ExitStack() as stack:
        reader = TensorReader(
            stack,
            {entry.name: entry},
            dtype=torch.float32,
            device=torch.device("cpu"),
            is_quantised=True,
            check_wanted=always_wanted,
        )
        return hash_int8(quantise(reader.read_stored(entry.name, entry.shape)))


def _read_gguf(
    rows: GgufRows,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    check_wanted: CheckWanted = always_wanted,
) -> Tensor:
    """Dequantise a whole tensor piece by piece, each rounded once to ``dtype``."""
    whole = torch.empty((rows.rows, rows.columns), dtype=dtype)
    first = 0
    for piece in rows.iterate():
        check_wanted()
        whole[first : first + len(piece)] = torch.from_numpy(piece)
        first += len(piece)
    return whole.view(shape)


class TensorReader:
    """Reads tensors by name and checks their shapes. Holds its safetensors files open."""

    def __init__(
        self,
        stack: ExitStack,
        entries: dict[str, TensorEntry],
        *,
        dtype: torch.dtype,
        device: torch.device,
        is_quantised: bool,
        check_wanted: CheckWanted,
    ) -> None:
        self._check_wanted = check_wanted
        self._entries = entries
        self._is_quantised = is_quantised
        self._dtype = dtype
        self._device = device
        files = {part.file for entry in entries.values() for part in entry.safetensors}
        self._files = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a whole tensor. Raises ModelError."""
        entry = self._find(name, shape)
        if entry.gguf_rows is not None or entry.parts:
            return self._read_whole(entry, self._dtype).to(self._device)
        # A copy even on the CPU: the values must not follow later changes of the file.
        return self._get(entry).to(device=self._device, dtype=self._dtype, copy=True)

    def read_rows(self, name: str, shape: tuple[int, int], rows: Tensor) -> Tensor:
        """Read these rows of a matrix; the file is mapped, so the others stay on disk."""
        in_gguf = self._find(name, shape).gguf_rows
        stored = (
            self.read_stored(name, shape)[rows]
            if in_gguf is None
            else torch.from_numpy(in_gguf.read(rows.numpy()))
        )
        return stored.to(device=self._device, dtype=self._dtype)

    def read_matrix(self, name: str, shape: tuple[int, ...]) -> Matrix:
        """Read a matrix that is quantised where the shard is."""
        if not self._is_quantised:
            return self.read(name, shape)
        # From the stored values: the activations' type must not round them before.
        return quantise(self.read_stored(name, shape)).to(self._device)

    def read_stored(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a whole tensor without rounding, where it can be in the type that it is stored in.

        Raises ModelError.
        """
        entry = self._find(name, shape)
        if entry.gguf_rows is not None or entry.parts:
            return self._read_whole(entry, torch.float32)
        return self._get(entry)

    def _read_whole(self, entry: TensorEntry, dtype: torch.dtype) -> Tensor:
        """Read a tensor that is dequantised, or stored in parts, piece by piece."""
        if entry.gguf_rows is not None:
            return _read_gguf(entry.gguf_rows, entry.shape, dtype, self._check_wanted)
        whole = torch.empty(entry.shape, dtype=dtype)
        for place, part in enumerate(entry.parts):
            self._check_wanted()
            whole[place] = self._get(part)
        return whole

    def _get(self, entry: TensorEntry) -> Tensor:
        tensor: Tensor = self._files[entry.file].get_tensor(entry.name)
        return tensor

    def _find(self, name: str, shape: tuple[int, ...]) -> TensorEntry:
        self._check_wanted()
        entry = self._entries[name]
        if entry.shape != shape:
            raise ModelError(f"{name} has shape {entry.shape}; the configuration says {shape}")
        return entry


def get_embedding_shape(config: ModelConfig) -> tuple[int, int]:
    """Return the shape of the embedding, which is the head's too."""
    return (config.vocab_size, config.hidden_size)


def _load_head(config: ModelConfig, reader: TensorReader, embedding: Tensor | None) -> Tensor:
    if not config.tie_word_embeddings:
        return lay_out_tensor(reader.read(HEAD, get_embedding_shape(config)))
    return (
        embedding if embedding is not None else reader.read(EMBEDDING, get_embedding_shape(config))
    )


def load_layer(config: ModelConfig, layer: int, reader: TensorReader) -> LayerWeights:
    """Read one transformer layer in the reader's type. Raises ModelError."""

    def read(tensor: LayerTensor) -> Matrix:
        read_part = reader.read_matrix if tensor.is_matrix else reader.read
        return read_part(name_layer_tensor(layer, tensor), tensor.shape)

    return assemble_layer((tensor.field, read(tensor)) for tensor in list_layer(config))


def assemble_layer(tensors: Iterable[tuple[str, Matrix]]) -> LayerWeights:
    """Join the tensors of each field by rows."""
    parts: dict[str, list[Matrix]] = {}
    for field, tensor in tensors:
        parts.setdefault(field, []).append(tensor)
    joined: dict[str, Any] = {field: join_rows(tensors) for field, tensors in parts.items()}
    return LayerWeights(**joined)
