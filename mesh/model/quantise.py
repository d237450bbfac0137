"""int8 weights, one scale a row: half the memory of bfloat16, and half of what a token reads.

Weight-only and symmetric: a layer's matrices are stored as ``round(w / scale)`` from -127 to 127
with ``scale = max|w| / 127`` of each output row; norms, biases, embedding and head stay as they
are, and activations are never quantised. These rules are part of a manifest's meaning, because it
hashes the values served (``hash_int8``), so they are written out here: exact float32 steps on the
CPU, the same bits on every machine and with every release of a library.

torchao 0.18 was measured beside it and left out: its int8 product widens the whole matrix at every
call (4.6 times as slow as the bfloat16 product for one row of a 2,048 x 6,144 matrix, where
torch's own int8 kernel takes 0.7 times as long), importing it takes three seconds, and its bits,
hence the manifest's hash, belong to its release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.errors import ModelError

LARGEST = 127
MAX_PACKED_ROWS = 4
"""Half-precision rows up to which torch's int8 kernel is faster than widening tile by tile."""
TILE_ROWS = 128
"""Weight rows widened at once on a CPU: the piece stays in its cache (x86-64)."""
_TAG = b"mesh/tensor/int8"


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix [outputs, inputs]: int8 ``values`` times float32 ``scales`` [outputs] by row.

    A stack of them has one more dimension in front.
    """

    values: Tensor
    scales: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes + self.scales.nbytes)

    def __getitem__(self, index: int | slice) -> Int8Matrix:
        """Return a matrix of a stack, or some rows of a matrix."""
        return Int8Matrix(self.values[index], self.scales[index])

    def to(self, target: torch.device) -> Int8Matrix:
        """Return the matrix on another device."""
        return Int8Matrix(self.values.to(target), self.scales.to(target))

    def widen(self, dtype: torch.dtype) -> Tensor:
        """Return the values that are served, rounded once to ``dtype``; exact rules in float32."""
        return (self.values.float() * self.scales.unsqueeze(-1)).to(dtype)


Matrix = Tensor | Int8Matrix

Multiply = Callable[[Tensor, Matrix, Tensor | None], Tensor]
"""(rows [rows, inputs], weights [outputs, inputs], bias or None) -> [rows, outputs]."""


def quantise(matrix: Tensor) -> Int8Matrix:
    """Quantise a matrix [outputs, inputs], or each of a stack, row by row.

    Raises ModelError if it is not finite.
    """
    if matrix.dim() > 2:
        parts = [quantise(part) for part in matrix]
        values = torch.stack([part.values for part in parts])
        return Int8Matrix(values, torch.stack([part.scales for part in parts]))
    # On the CPU: GPUs multiply by reciprocals where the rule divides.
    wide = matrix.detach().to("cpu", torch.float32)
    largest = wide.abs().amax(dim=1)
    if not bool(torch.isfinite(largest).all()):
        raise ModelError("a weight is not finite; it cannot be quantised")
    scales = largest / torch.full_like(largest, LARGEST)
    # Rows of zeros, or so small that the scale vanishes, are served as zeros.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    rounded = torch.round(wide / scales.unsqueeze(1)).clamp(-LARGEST, LARGEST)
    return Int8Matrix(rounded.to(torch.int8), scales)


def join_rows(parts: list[Matrix]) -> Matrix:
    """Put matrices of one kind on top of each other, or vectors after each other."""
    if len(parts) == 1:
        return parts[0]
    packed = [part for part in parts if isinstance(part, Int8Matrix)]
    if len(packed) == len(parts):
        values = torch.cat([part.values for part in packed], dim=-2)
        return Int8Matrix(values, torch.cat([part.scales for part in packed], dim=-1))
    plain = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(plain, dim=-2 if plain[0].dim() > 1 else 0)


def hash_int8(matrix: Int8Matrix) -> str:
    """SHA-256 hex of the values served: int8 by rows, then the little-endian float32 scales."""
    digest = hashlib.sha256(_TAG)
    digest.update(matrix.values.numpy().tobytes())
    digest.update(matrix.scales.numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def multiply_rows(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """Multiply rows [rows, inputs] by a matrix [outputs, inputs]: [rows, outputs]."""
    if isinstance(matrix, Tensor):
        return F.linear(x, matrix, bias)
    product = _multiply_int8(x, matrix)
    return product if bias is None else product + bias


def _multiply_int8(x: Tensor, matrix: Int8Matrix) -> Tensor:
    scales = matrix.scales.to(x.dtype)
    if x.device.type != "cpu":
        return F.linear(x, matrix.values.to(x.dtype)) * scales
    if x.dtype != torch.float32 and x.shape[0] <= MAX_PACKED_ROWS:
        return torch._weight_int8pack_mm(x.contiguous(), matrix.values, scales)
    starts = range(0, matrix.values.shape[0], TILE_ROWS)
    tiles = [F.linear(x, matrix.values[i : i + TILE_ROWS].to(x.dtype)) for i in starts]
    return torch.cat(tiles, dim=-1) * scales
