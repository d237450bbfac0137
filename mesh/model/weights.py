"""The weights of a layer range, read from safetensors or GGUF: only the tensors that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from mesh.errors import ModelError
from mesh.model import bfloat16_packed, int4_packed
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.bfloat16 import prefers_input_major
from mesh.model.capacity import check_device
from mesh.model.config import ModelConfig
from mesh.model.families import list_layer
from mesh.model.family import MATRICES, LayerTensor
from mesh.model.files import ModelFolder
from mesh.model.int4 import Int4Matrix, quantise_int4
from mesh.model.int4_packed import PackedInt4Matrix
from mesh.model.quant_types import NOT_QUANTISED, find_quant_type
from mesh.model.quantise import (
    Int8Matrix,
    Matrix,
    PlainMatrix,
    StoredMatrix,
    join_rows,
    quantise,
)
from mesh.model.tensors import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    TensorEntry,
    list_layer_tensors,
    list_range_tensors,
    locate_tensors,
    name_layer_tensor,
)
from mesh.progress import BYTES, track

if TYPE_CHECKING:
    from mesh.model.gguf_tensors import GgufRows

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTISERS: Mapping[str, Callable[[Tensor], PlainMatrix]] = {
    "int8": quantise,
    "int4": quantise_int4,
}


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
            lambda value: value.widen(dtype) if isinstance(value, StoredMatrix) else value.to(dtype)
        )

    def lay_out(self, dtype: torch.dtype) -> LayerWeights:
        """Return the layer with its matrices stored as ``lay_out`` likes them."""
        changed: dict[str, Any] = {name: lay_out(getattr(self, name), dtype) for name in MATRICES}
        router = None if self.router is None else lay_out_tensor(self.router)
        return replace(self, router=router, **changed)

    def change_vectors(self, change: Callable[[Tensor], Tensor]) -> LayerWeights:
        """Return the layer with its norms and biases changed; matrices stay as they are."""
        return self._map(
            lambda value: (
                value if isinstance(value, StoredMatrix) or value.dim() > 1 else change(value)
            )
        )

    def change_matrices(self, change: Callable[[Tensor], Matrix]) -> LayerWeights:
        """Return the layer with the matrices changed that are quantised; here they are plain."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in MATRICES}
        return replace(self, **changed)

    def _map(self, change: Callable[[Matrix], Matrix]) -> LayerWeights:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in values.items()
        }
        return LayerWeights(**changed)


def quantise_as(like: Matrix, plain: Tensor, dtype: torch.dtype) -> Matrix:
    """Return a plain float32 matrix in ``dtype``, or quantised if the other one is."""
    if isinstance(like, Int8Matrix):
        return quantise(plain)
    if isinstance(like, Int4Matrix | PackedInt4Matrix):
        return quantise_int4(plain)
    return plain.to(dtype)


def lay_out(matrix: Matrix, dtype: torch.dtype) -> Matrix:
    """Store a matrix as products with rows of ``dtype`` read it fastest; its values stay."""
    if isinstance(matrix, Int4Matrix):
        return int4_packed.pack(matrix) if int4_packed.can_pack(matrix, dtype) else matrix
    if not isinstance(matrix, Tensor):
        return matrix
    if bfloat16_packed.can_pack(matrix):
        return bfloat16_packed.pack(matrix)
    return lay_out_tensor(matrix)


def lay_out_tensor(tensor: Tensor) -> Tensor:
    """Store a matrix on the CPU input-major where one row is faster then; its shape stays
    [outputs, inputs].

    Measured on x86-64: a float32 row is 1.1 to 2.3 times as fast. Of bfloat16 see
    mesh/model/bfloat16.py.
    """
    is_float32_on_cpu = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    if tensor.dim() < 2 or not (is_float32_on_cpu or prefers_input_major(tensor)):
        return tensor
    return tensor.mT.contiguous().mT


@dataclass(frozen=True, slots=True)
class ShardWeights:
    """What a hoster of layers ``[start, end)`` holds.

    ``embedding`` [vocabulary, hidden] is there when start is 0; ``final_norm`` [hidden] and
    ``head`` [vocabulary, hidden] when end is the model's last layer. Tied ones share memory, unless
    the head is a StoredMatrix. ``dtype`` is the activations'; with a ``quant_type`` the layers'
    matrices are quantised.
    """

    config: ModelConfig
    start: int
    end: int
    dtype: torch.dtype
    device: torch.device
    layers: tuple[LayerWeights, ...]
    embedding: Tensor | None
    final_norm: Tensor | None
    head: Matrix | None
    quant_type: str = NOT_QUANTISED

    @property
    def served_dtype(self) -> str:
        """What a heartbeat says about the weights: the quant type or the type's name."""
        if self.quant_type != NOT_QUANTISED:
            return self.quant_type
        return str(self.dtype).removeprefix("torch.")

    def list_matrices(self) -> Iterator[Matrix]:
        """Iterate over what rows are multiplied by; of a layer's experts the first."""
        for layer in self.layers:
            for name in (*MATRICES, "router"):
                matrix: Matrix | None = getattr(layer, name)
                if matrix is not None:
                    is_stack = layer.router is not None and name in ("gate_up", "down")
                    yield matrix[0] if is_stack else matrix
        if self.head is not None:
            yield self.head

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
    quant_type: str = NOT_QUANTISED,
    check_wanted: CheckWanted = always_wanted,
) -> ShardWeights:
    """Load layers ``[start, end)``, quantised as they are read if ``quant_type`` says so.

    Raises DeviceUnavailable before anything is read, LayerRangeOutsideModel, ModelFilesMissing or
    ModelError, and Abandoned between two tensors once ``check_wanted`` does.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
    find_quant_type(quant_type)
    entries = locate_tensors(folder, config, list_range_tensors(config, start, end))
    size = sum(entry.num_bytes for entry in entries.values())
    with (
        track("loading the weights", total=size, unit=BYTES, blocks=f"{start}:{end}") as step,
        ExitStack() as stack,
    ):
        reader = TensorReader(
            stack,
            entries,
            dtype=DTYPES[dtype],
            device=torch.device(device),
            quant_type=quant_type,
            check_wanted=check_wanted,
        )
        layers = []
        for layer in range(start, end):
            layers.append(load_layer(config, layer, reader).lay_out(DTYPES[dtype]))
            names = list_layer_tensors(config, layer)
            step(sum(entries[name].num_bytes for name in names))
        is_last = end == config.num_layers
        embedding = reader.read(EMBEDDING, get_embedding_shape(config)) if start == 0 else None
        head = _load_head(config, reader, embedding, quant_type) if is_last else None
        if head is not None and config.tie_word_embeddings and isinstance(head, Tensor):
            # Shared still: looking up a token's row is not what takes long.
            embedding = None if embedding is None else head
        final_norm = reader.read(FINAL_NORM, (config.hidden_size,)) if is_last else None
        ends = [name for name in (EMBEDDING, FINAL_NORM, HEAD) if name in entries]
        step(sum(entries[name].num_bytes for name in ends))
        return ShardWeights(
            config,
            start,
            end,
            DTYPES[dtype],
            torch.device(device),
            tuple(layers),
            embedding,
            final_norm,
            head,
            quant_type,
        )


def hash_quantised(entry: TensorEntry, quant_type: str) -> str:
    """SHA-256 hex of the quantised values that this matrix is served as."""
    with ExitStack() as stack:
        reader = TensorReader(
            stack,
            {entry.name: entry},
            dtype=torch.float32,
            device=torch.device("cpu"),
            quant_type=quant_type,
            check_wanted=always_wanted,
        )
        return QUANTISERS[quant_type](reader.read_stored(entry.name, entry.shape)).hash()


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
        quant_type: str,
        check_wanted: CheckWanted,
    ) -> None:
        self._check_wanted = check_wanted
        self._entries = entries
        self._quantise = QUANTISERS.get(quant_type)
        self.dtype = dtype
        self._device = device
        files = {part.file for entry in entries.values() for part in entry.safetensors}
        self._files = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a whole tensor. Raises ModelError."""
        entry = self._find(name, shape)
        if entry.gguf_rows is not None or entry.parts:
            return self._read_whole(entry, self.dtype).to(self._device)
        # A copy even on the CPU: the values must not follow later changes of the file.
        return self._get(entry).to(device=self._device, dtype=self.dtype, copy=True)

    def read_rows(self, name: str, shape: tuple[int, int], rows: Tensor) -> Tensor:
        """Read these rows of a matrix; the file is mapped, so the others stay on disk."""
        return self._read_stored_rows(name, shape, rows).to(device=self._device, dtype=self.dtype)

    def read_matrix_rows(self, name: str, shape: tuple[int, int], rows: Tensor) -> Tensor:
        """Read rows of a matrix that is quantised where the shard is, and widen them."""
        if self._quantise is None:
            return self.read_rows(name, shape, rows)
        stored = self._read_stored_rows(name, shape, rows)
        return self._quantise(stored).widen(self.dtype).to(self._device)

    def _read_stored_rows(self, name: str, shape: tuple[int, int], rows: Tensor) -> Tensor:
        in_gguf = self._find(name, shape).gguf_rows
        if in_gguf is None:
            return self.read_stored(name, shape)[rows]
        return torch.from_numpy(in_gguf.read(rows.numpy()))

    def read_matrix(self, name: str, shape: tuple[int, ...]) -> Matrix:
        """Read a matrix that is quantised where the shard is."""
        if self._quantise is None:
            return self.read(name, shape)
        # From the stored values: the activations' type must not round them before.
        return self._quantise(self.read_stored(name, shape)).to(self._device)

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


def _load_head(
    config: ModelConfig, reader: TensorReader, embedding: Tensor | None, quant_type: str
) -> Matrix:
    name, shape = get_head_name(config), get_embedding_shape(config)
    if is_head_quantised(quant_type):
        return lay_out(reader.read_matrix(name, shape), reader.dtype)
    if not config.tie_word_embeddings:
        return lay_out(reader.read(name, shape), reader.dtype)
    tied = embedding if embedding is not None else reader.read(name, shape)
    is_changed = prefers_input_major(tied) or bfloat16_packed.can_pack(tied)
    return lay_out(tied, reader.dtype) if is_changed else tied


def get_head_name(config: ModelConfig) -> str:
    """Return the stored tensor that the head is read from."""
    return EMBEDDING if config.tie_word_embeddings else HEAD


def is_head_quantised(quant_type: str) -> bool:
    """Whether the head is quantised too. Raises ModelError for an unknown quant type."""
    quant = find_quant_type(quant_type)
    return quant is not None and quant.has_head


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
