"""Quantised matrices, and the rule of int8: one scale a row, half the memory of bfloat16.

int8 is weight-only and symmetric: a layer's matrices are stored as ``round(w / scale)`` from -127
to 127 with ``scale = max|w| / 127`` of each output row; norms, biases, embedding and head stay as
they are, and activations are never quantised. These rules are part of a manifest's meaning,
because it hashes the values served, so they are written out here: exact float32 steps on the
CPU, the same bits on every machine and with every release of a library. The rule of int4 is in
mesh/model/int4.py.

torchao 0.18 was measured beside it and left out: its int8 product widens the whole matrix at every
call (4.6 times as slow as the bfloat16 product for one row of a 2,048 x 6,144 matrix, where
torch's own int8 kernel takes 0.7 times as long), importing it takes three seconds, and its bits,
hence the manifest's hash, belong to its release.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.errors import ModelError
from mesh.model import bfloat16

LARGEST = 127
MAX_PACKED_ROWS = 8
"""Half-precision rows up to which torch's int8 kernel is faster than widening tile by tile."""
TILE_NUMBERS = 1 << 20
"""Weights widened at once on a CPU: the tile stays in its cache, and a call costs little beside."""
_TAG = b"mesh/tensor/int8"


class StoredMatrix(ABC):
    """A matrix [outputs, inputs] in fewer bits or in the order of a kernel, or a stack of them with
    one more dimension.

    ``widen`` says which values it has: they are the model's, and every product is one of them.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Rows of a matrix."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Columns of a matrix."""

    @abstractmethod
    def __getitem__(self, index: int) -> StoredMatrix:
        """Return a matrix of a stack."""

    @abstractmethod
    def widen(self, dtype: torch.dtype) -> Tensor:
        """Return the values that are served, each rounded once to ``dtype``."""

    @abstractmethod
    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """Return some rows of a matrix as ``widen`` does, by a slice or by their numbers."""

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """Multiply rows [rows, inputs] by a matrix: [rows, outputs] in x's type."""


class PlainMatrix(StoredMatrix):
    """A matrix as its rule writes it, which a manifest hashes."""

    __slots__ = ()

    @abstractmethod
    def to(self, target: torch.device) -> PlainMatrix:
        """Return the matrix on another device."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put matrices, or stacks of as many, on top of each other."""

    @abstractmethod
    def hash(self) -> str:
        """SHA-256 hex of the values served."""


Matrix = Tensor | StoredMatrix

Multiply = Callable[[Tensor, Matrix, Tensor | None], Tensor]
"""(rows [rows, inputs], weights [outputs, inputs], bias or None) -> [rows, outputs]."""


@dataclass(frozen=True, slots=True)
class Int8Matrix(PlainMatrix):
    """int8 ``values`` [outputs, inputs] times float32 ``scales`` [outputs] by row."""

    values: Tensor
    scales: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes + self.scales.nbytes)

    @property
    def outputs(self) -> int:
        return int(self.values.shape[-2])

    @property
    def inputs(self) -> int:
        return int(self.values.shape[-1])

    def __getitem__(self, index: int) -> Int8Matrix:
        return Int8Matrix(self.values[index], self.scales[index])

    def widen(self, dtype: torch.dtype) -> Tensor:
        return (self.values.float() * self.scales.unsqueeze(-1)).to(dtype)

    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        return Int8Matrix(self.values[rows], self.scales[rows]).widen(dtype)

    def multiply(self, x: Tensor) -> Tensor:
        scales = self.scales.to(x.dtype)
        if x.device.type != "cpu":
            return F.linear(x, self.values.to(x.dtype)) * scales
        if x.dtype != torch.float32 and x.shape[0] <= MAX_PACKED_ROWS:
            return torch._weight_int8pack_mm(x.contiguous(), self.values, scales)
        tiles = torch.split(self.values, count_tile_rows(self.values.shape[1]))
        products = [multiply_rows(x, tile.to(x.dtype), None) for tile in tiles]
        return torch.cat(products, dim=-1) * scales

    def to(self, target: torch.device) -> Int8Matrix:
        return Int8Matrix(self.values.to(target), self.scales.to(target))

    @classmethod
    def join(cls, parts: Sequence[Int8Matrix]) -> Int8Matrix:
        values = torch.cat([part.values for part in parts], dim=-2)
        return Int8Matrix(values, torch.cat([part.scales for part in parts], dim=-1))

    def hash(self) -> str:
        """SHA-256 hex: int8 by rows, then the little-endian float32 scales."""
        digest = hashlib.sha256(_TAG)
        digest.update(self.values.numpy().tobytes())
        digest.update(self.scales.numpy().astype("<f4").tobytes())
        return digest.hexdigest()


def quantise(matrix: Tensor) -> Int8Matrix:
    """Quantise a matrix [outputs, inputs], or each of a stack, row by row.

    Raises ModelError if it is not finite.
    """
    if matrix.dim() > 2:
        parts = [quantise(part) for part in matrix]
        values = torch.stack([part.values for part in parts])
        return Int8Matrix(values, torch.stack([part.scales for part in parts]))
    wide = read_exactly(matrix)
    largest = wide.abs().amax(dim=1)
    scales = largest / torch.full_like(largest, LARGEST)
    # Rows of zeros, or so small that the scale vanishes, are served as zeros.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    rounded = torch.round(wide / scales.unsqueeze(1)).clamp(-LARGEST, LARGEST)
    return Int8Matrix(rounded.to(torch.int8), scales)


def read_exactly(matrix: Tensor) -> Tensor:
    """Return the values in float32 on the CPU: GPUs multiply by reciprocals where a rule divides.

    Raises ModelError if they are not finite.
    """
    wide = matrix.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(wide).all()):
        raise ModelError("a weight is not finite; it cannot be quantised")
    return wide


def count_tile_rows(inputs: int) -> int:
    """Return how many rows of a matrix are widened at once on a CPU."""
    return max(1, TILE_NUMBERS // inputs)


def join_rows(parts: list[Matrix]) -> Matrix:
    """Put matrices of one kind on top of each other, or vectors after each other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, PlainMatrix):
        return type(first).join([part for part in parts if isinstance(part, type(first))])
    plain = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(plain, dim=-2 if plain[0].dim() > 1 else 0)


def multiply_rows(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """Multiply rows [rows, inputs] by a matrix [outputs, inputs]: [rows, outputs]."""
    if isinstance(matrix, Tensor):
        if not bfloat16.is_slow(matrix):
            return F.linear(x, matrix, bias)
        product = bfloat16.multiply(x, matrix)
    else:
        product = matrix.multiply(x)
    return product if bias is None else product + bias
