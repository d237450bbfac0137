"""A GGUF file's header, read within bounds: its metadata, and where each tensor's blocks are.

A GGUF file has a header of typed key-value pairs (the model's numbers, its vocabulary, its chat
template), a table of tensors, and the tensors themselves as blocks of one of ggml's types.

The `gguf` library says what a type's blocks are and what they mean. The header is walked here:
gguf's own reader believes every count in it, so a file of a hundred bytes could make it allocate
without end, and a file that was downloaded is a stranger's.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from mesh.errors import ModelError, ModelFilesMissing, QuantisedCheckpoint

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 64 << 20
MAX_FIELDS = 1 << 12
MAX_TENSORS = 1 << 15
MAX_KEY_BYTES = 1 << 10
MAX_TEXT_BYTES = 1 << 20
MAX_ARRAY_LENGTH = 1 << 20
"""Of a vocabulary or its merges; three times the longest that is in use."""
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32
MAX_OPEN = 4
VOCABULARY = frozenset(
    f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "scores", "token_type")
)

Value = Any
"""A number, a boolean, a text, or a list of one of these."""

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_COUNTS = struct.Struct("<IQQ")
_NUMBERS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: ``shape`` with the rows first, and its place in the file in bytes."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a header says. ``fields`` has the vocabulary only where it was asked for."""

    path: Path
    fields: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read a header without its vocabulary. Raises ModelFilesMissing, ModelError, or
    QuantisedCheckpoint for a type that gguf does not know.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ModelFilesMissing(f"{path} cannot be read: {error.strerror}") from error
    return _read_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=MAX_OPEN)
def _read_once(path: Path, size: int, changed_ns: int) -> GgufFile:
    """Read a header once for each state of a file: an audit of one layer asks for it thrice."""
    return _read(path, has_vocabulary=False)


def read_vocabulary(path: Path) -> Mapping[str, Value]:
    """Read a header's fields, the vocabulary's arrays included. Raises as read_gguf."""
    return _read(path, has_vocabulary=True).fields


def _read(path: Path, *, has_vocabulary: bool) -> GgufFile:
    with _open_header(path) as header:
        version, num_tensors, num_fields = header.take(_COUNTS)
        if version not in VERSIONS:
            raise ModelError(
                f"{path.name} is GGUF version {version}; supported are 2 and 3, little-endian"
            )
        header.check_count("tensors", num_tensors, MAX_TENSORS)
        header.check_count("metadata fields", num_fields, MAX_FIELDS)
        fields = {}
        for _ in range(num_fields):
            key = header.take_text(MAX_KEY_BYTES)
            if key in fields:
                raise ModelError(f"{path.name} has the field {key!r:.80} twice")
            fields[key] = _take_value(header, is_kept=has_vocabulary or key not in VOCABULARY)
        return GgufFile(path, fields, _take_tensors(header, num_tensors, _get_alignment(fields)))


@contextmanager
def _open_header(path: Path) -> Iterator[_Header]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{path.name} is not a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Header(path.name, data)
    except OSError as error:
        raise ModelFilesMissing(f"{path} cannot be read: {error.strerror}") from error


class _Header:
    """A place in the header that only moves on within it."""

    def __init__(self, name: str, data: mmap.mmap) -> None:
        self.name = name
        self.size = len(data)
        self.place = len(MAGIC)
        self._data = data
        self._end = min(self.size, MAX_HEADER_BYTES)

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the next numbers. Raises ModelError where the header ends."""
        begin = self.skip(layout.size)
        return layout.unpack_from(self._data, begin)

    def skip_text(self, limit: int) -> int:
        """Move on over a text and return the place of its first byte."""
        (count,) = self.take(_U64)
        self.check_count("bytes of a text", count, limit)
        return self.skip(count)

    def take_text(self, limit: int) -> str:
        """Return the next text."""
        begin = self.skip_text(limit)
        try:
            return self._data[begin : self.place].decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.name} has a text in its header that is not UTF-8") from error

    def check_count(self, what: str, count: int, limit: int) -> None:
        """Raise ModelError for a count above its limit, before anything is allocated."""
        if count > limit:
            raise ModelError(f"{self.name} claims {count} {what}; at most {limit} are read")

    def skip(self, count: int) -> int:
        """Move on by ``count`` bytes and return the place before them."""
        begin = self.place
        if count > self._end - begin:
            if self._end < self.size:
                raise ModelError(f"{self.name} has a header of more than {self._end} bytes")
            raise ModelError(f"{self.name} ends inside its header: the file is cut off")
        self.place = begin + count
        return begin


def _take_value(header: _Header, *, is_kept: bool) -> Value:
    kind = _take_kind(header)
    if kind is GGUFValueType.STRING:
        return header.take_text(MAX_TEXT_BYTES)
    if kind is not GGUFValueType.ARRAY:
        return header.take(struct.Struct("<" + _NUMBERS[kind]))[0]
    kind = _take_kind(header)
    if kind is GGUFValueType.ARRAY:
        raise ModelError(f"{header.name} has an array of arrays in its metadata")
    (count,) = header.take(_U64)
    header.check_count("entries of an array", count, MAX_ARRAY_LENGTH)
    if kind is GGUFValueType.STRING:
        return _take_texts(header, count, is_kept=is_kept)
    layout = struct.Struct(f"<{count}{_NUMBERS[kind]}")
    if is_kept:
        return list(header.take(layout))
    header.skip(layout.size)
    return []


def _take_texts(header: _Header, count: int, *, is_kept: bool) -> list[str]:
    if is_kept:
        return [header.take_text(MAX_TEXT_BYTES) for _ in range(count)]
    for _ in range(count):
        header.skip_text(MAX_TEXT_BYTES)
    return []


def _take_kind(header: _Header) -> GGUFValueType:
    (number,) = header.take(_U32)
    try:
        return GGUFValueType(number)
    except ValueError as error:
        raise ModelError(f"{header.name} has metadata of the unknown type {number}") from error


def _get_alignment(fields: Mapping[str, Value]) -> int:
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    is_power = isinstance(alignment, int) and alignment > 0 and not alignment & (alignment - 1)
    if not is_power or alignment > MAX_ALIGNMENT:
        raise ModelError(f"general.alignment is {alignment!r:.40}, no power of two")
    return int(alignment)


def _take_tensors(header: _Header, count: int, alignment: int) -> dict[str, GgufTensor]:
    listed = [_take_tensor(header) for _ in range(count)]
    base = -(-header.place // alignment) * alignment
    tensors = {}
    for name, kind, shape, offset in listed:
        begin = base + offset
        end = begin + _compute_bytes(header.name, name, kind, shape)
        if end > header.size:
            raise ModelError(f"{header.name} ends inside the tensor {name}: the file is cut off")
        if name in tensors:
            raise ModelError(f"{header.name} has the tensor {name!r:.80} twice")
        tensors[name] = GgufTensor(name, kind, shape, begin, end)
    return tensors


def _take_tensor(header: _Header) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
    name = header.take_text(MAX_KEY_BYTES)
    (num_dimensions,) = header.take(_U32)
    header.check_count("dimensions of a tensor", num_dimensions, MAX_DIMENSIONS)
    # The file counts from the fastest dimension on.
    shape = tuple(reversed(header.take(struct.Struct(f"<{num_dimensions}Q"))))
    (number,) = header.take(_U32)
    (offset,) = header.take(_U64)
    if not shape or min(shape) < 1:
        raise ModelError(f"{header.name}: the tensor {name!r:.80} has the shape {shape}")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise QuantisedCheckpoint(
            f"{header.name}: {name!r:.80} is stored in the unknown type {number}"
        ) from error
    return name, kind, shape, offset


def _compute_bytes(
    file_name: str, name: str, kind: GGMLQuantizationType, shape: tuple[int, ...]
) -> int:
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block_values:
        raise ModelError(
            f"{file_name}: rows of {name!r:.80} have {shape[-1]} values, "
            f"which blocks of {block_values} ({kind.name}) do not divide"
        )
    return math.prod(shape) // block_values * block_bytes
