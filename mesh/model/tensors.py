"""Which tensor of a checkpoint is in which file, and which ones a layer range needs.

The safetensors header is parsed here without torch, so that a manifest can be checked and a
plan made before anything heavy is imported. mesh/model/gguf_tensors.py does the same for GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.errors import ModelError, ModelFilesMissing, QuantisedCheckpoint
from mesh.model.config import ModelConfig, read_json_object
from mesh.model.families import list_layer
from mesh.model.family import LayerTensor
from mesh.model.files import ModelFolder, fetch_files
from mesh.model.quant_types import find_quant_type

if TYPE_CHECKING:
    from mesh.model.gguf_tensors import GgufRows

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_HEADER_BYTES = 16 << 20
MAX_INDEX_BYTES = 16 << 20
"""A model of 96 layers with 128 experts each names 37,000 tensors in 4 MB."""

STORED_DTYPES = ("F32", "BF16", "F16")
"""What safetensors calls the types that weights may be stored in."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
EXPERTS = ".mlp.experts."


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in a file; ``begin`` and ``end`` are byte offsets in it.

    ``dtype`` is what its values are, in the words of safetensors. A tensor of a GGUF file is read
    through ``gguf_rows``; ``begin`` and ``end`` are then of its blocks. A stack of
    experts' matrices that are stored apart has them as ``parts``, and the place of the first.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    gguf_rows: GgufRows | None = None
    parts: tuple[TensorEntry, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes in the files."""
        return sum(part.end - part.begin for part in self.parts or (self,))

    @property
    def safetensors(self) -> tuple[TensorEntry, ...]:
        """The tensors of safetensors files behind this one."""
        if self.gguf_rows is not None:
            return ()
        return self.parts or (self,)


def list_layer_tensors(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """Return the tensor names of one transformer layer."""
    return tuple(name_layer_tensor(layer, tensor) for tensor in list_layer(config))


def name_layer_tensor(layer: int, tensor: LayerTensor) -> str:
    """Return what a checkpoint calls this tensor of one transformer layer."""
    return f"model.layers.{layer}.{tensor.name}"


def list_range_tensors(config: ModelConfig, start: int, end: int) -> tuple[str, ...]:
    """Return the tensor names that ``[start, end)`` needs.

    The first range adds the embedding, the last the final norm and the head, which is the
    embedding where the two are tied.
    """
    config.check_layer_range(start, end)
    names = [name for layer in range(start, end) for name in list_layer_tensors(config, layer)]
    if start == 0:
        names.append(EMBEDDING)
    if end == config.num_layers:
        names += [FINAL_NORM, EMBEDDING if config.tie_word_embeddings else HEAD]
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """A tensor that a range serves: by its name in a manifest, and the one it is made from."""

    name: str
    stored: str
    is_quantised: bool


def list_served_tensors(
    config: ModelConfig, start: int, end: int, quant_type: str
) -> tuple[ServedTensor, ...]:
    """Return what ``[start, end)`` serves, from the tensors of ``list_range_tensors``.

    A tied head that is quantised is served beside the embedding. Raises ModelError for an unknown
    quant type.
    """
    quant = find_quant_type(quant_type)
    quantised = set() if quant is None else _list_matrices(config)
    has_head = quant is not None and quant.has_head
    if has_head:
        quantised.add(HEAD)
    names = list_range_tensors(config, start, end)
    is_copied = has_head and config.tie_word_embeddings and end == config.num_layers
    served = [
        ServedTensor(name, name, name in quantised)
        for name in names
        if not (is_copied and name == EMBEDDING and start > 0)
    ]
    return (*served, ServedTensor(HEAD, EMBEDDING, True)) if is_copied else tuple(served)


def _list_matrices(config: ModelConfig) -> set[str]:
    matrices = [tensor for tensor in list_layer(config) if tensor.is_matrix]
    layers = range(config.num_layers)
    return {name_layer_tensor(layer, tensor) for layer in layers for tensor in matrices}


def locate_tensors(
    folder: ModelFolder, config: ModelConfig, names: Iterable[str]
) -> dict[str, TensorEntry]:
    """Find these tensors, downloading only the files that hold them.

    Raises ModelFilesMissing, QuantisedCheckpoint or ModelError.
    """
    if folder.gguf is not None:
        # Here only: other checkpoints need no gguf.
        from mesh.model.gguf_tensors import locate_gguf_tensors

        return locate_gguf_tensors(folder.gguf, config, names)
    wanted = {name: list_stored_names(config, name) for name in names}
    files = _file_of_each(folder, [part for parts in wanted.values() for part in parts])
    fetch_files(folder, files.values())
    headers = {file: read_header(folder.path / file) for file in sorted(set(files.values()))}

    def find(name: str) -> TensorEntry:
        return _find_entry(name, files[name], headers[files[name]])

    return {name: _join_parts(name, [*map(find, parts)]) for name, parts in wanted.items()}


def list_stored_names(config: ModelConfig, name: str) -> tuple[str, ...]:
    """Return the tensors of a checkpoint behind this one: a stack has one for each expert."""
    before, stack, after = name.partition(EXPERTS)
    if config.experts is None or not stack:
        return (name,)
    return tuple(f"{before}{stack}{expert}.{after}" for expert in range(config.experts.count))


def _find_entry(name: str, file: str, header: Mapping[str, TensorEntry]) -> TensorEntry:
    entry = header.get(name)
    if entry is None:
        _refuse_packed(name, header)
        raise ModelFilesMissing(f"{file} has no tensor {name}; the checkpoint is broken")
    if entry.dtype not in STORED_DTYPES:
        raise QuantisedCheckpoint(f"{name} is stored as {entry.dtype}")
    return entry


def _join_parts(name: str, parts: list[TensorEntry]) -> TensorEntry:
    first = parts[0]
    if first.name == name:
        return first
    for part in parts:
        if (part.dtype, part.shape) != (first.dtype, first.shape):
            raise ModelError(
                f"{part.name} is {part.dtype} {part.shape}, "
                f"but {first.name} {first.dtype} {first.shape}"
            )
    return replace(first, name=name, shape=(len(parts), *first.shape), parts=tuple(parts))


def _file_of_each(folder: ModelFolder, names: Iterable[str]) -> dict[str, str]:
    if (folder.path / SINGLE_FILE).is_file() or not (folder.path / INDEX_FILE).is_file():
        return dict.fromkeys(names, SINGLE_FILE)
    weight_map = read_json_object(folder.path / INDEX_FILE, max_bytes=MAX_INDEX_BYTES).get(
        "weight_map"
    )
    if not isinstance(weight_map, dict):
        raise ModelError(f"{INDEX_FILE} has no weight_map")
    files = {}
    for name in names:
        file = weight_map.get(name)
        if not isinstance(file, str):
            _refuse_packed(name, weight_map)
            raise ModelFilesMissing(f"{INDEX_FILE} does not list {name}")
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(f"{INDEX_FILE} names {file!r}, which is not a safetensors file")
        files[name] = file
    return files


def _refuse_packed(name: str, listed: Iterable[str]) -> None:
    """Raise QuantisedCheckpoint where AWQ's or GPTQ's packed integers stand for a matrix."""
    packed = f"{name.removesuffix('.weight')}.qweight"
    if packed in listed:
        raise QuantisedCheckpoint(f"{packed} is there instead of {name}, as AWQ and GPTQ store it")


def read_header(path: Path) -> Mapping[str, TensorEntry]:
    """Parse the header of a safetensors file. Raises ModelError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_size = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_size > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{path.name} is not a safetensors file")
        try:
            header = json.loads(file.read(header_size))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path.name} has a broken header: it is not JSON") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path.name} has a broken header")
    header.pop("__metadata__", None)
    base = 8 + header_size
    return {name: _parse_entry(path, name, field, base, size) for name, field in header.items()}


def _parse_entry(path: Path, name: str, field: Any, base: int, size: int) -> TensorEntry:
    try:
        begin, end = (base + int(offset) for offset in field["data_offsets"])
        shape = tuple(int(length) for length in field["shape"])
        dtype = str(field["dtype"])
    # An infinity, which JSON may hold here, has no integer.
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path.name}: the entry of {name} is broken") from error
    if not base <= begin <= end <= size or any(length < 0 for length in shape):
        raise ModelError(f"{path.name}: the entry of {name} lies outside the file")
    return TensorEntry(name, path, dtype, shape, begin, end)
