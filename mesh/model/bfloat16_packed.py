"""bfloat16 matrices in the order in which oneDNN's kernels read them.

On processors with AVX-512 a product with a plain matrix, F.linear, reads it at half of the speed of
the memory or less, because its rows are not laid out as the kernel's blocks. Reordered once, when
they are loaded, they are read at the memory's speed. On one Zen 5 core a row takes 108 us by a
matrix of 3,072 x 576 instead of 227, and up to 16 rows take half of the time, too.

The values are the same bfloat16 numbers, so nothing else depends on the order: challenges read them
back. oneDNN has the order to itself: only its own functions read a packed tile. The functions that
pack and multiply are those of torch's compiler, which it calls in the code that it makes; one small
product at the first use shows that they are there and exact, otherwise matrices stay plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.quantise import StoredMatrix

TILE_NUMBERS = 1 << 24
"""Numbers of a tile: what is held twice, for a moment, while a matrix is packed or read back."""
_OUTPUT_STEP = 64
"""Tiles are cut at multiples of it, so that no tile but the last is filled up."""
_SEED = 11


@dataclass(frozen=True, slots=True)
class PackedBfloat16Matrix(StoredMatrix):
    """``tiles`` of ``tile_outputs`` rows each, the last one of what is left; ``shape`` is that of
    the matrix [outputs, inputs].
    """

    tiles: tuple[Tensor, ...]
    tile_outputs: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.outputs * self.inputs * torch.bfloat16.itemsize

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[1]

    def __getitem__(self, index: int) -> StoredMatrix:
        raise IndexError("one matrix is not a stack")

    def widen(self, dtype: torch.dtype) -> Tensor:
        if len(self.tiles) == 1:
            return self.tiles[0].to_dense().to(dtype)
        whole = torch.empty((self.outputs, self.inputs), dtype=dtype)
        for tile, part in zip(self.tiles, torch.split(whole, self.tile_outputs), strict=True):
            part.copy_(tile.to_dense())
        return whole

    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(self.outputs))
        found = torch.empty((len(rows), self.inputs), dtype=dtype)
        numbers = rows // self.tile_outputs
        for number in torch.unique(numbers).tolist():
            is_here = numbers == number
            places = rows[is_here] - number * self.tile_outputs
            found[is_here] = self.tiles[number].to_dense()[places].to(dtype)
        return found

    def multiply(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return F.linear(x, self.widen(x.dtype))
        if len(self.tiles) == 1:
            return _multiply(x, self.tiles[0])
        return torch.cat([_multiply(x, tile) for tile in self.tiles], dim=-1)


@dataclass(frozen=True, slots=True)
class PackedBfloat16Stack(StoredMatrix):
    """Matrices of one shape, such as those of a layer's experts."""

    matrices: tuple[PackedBfloat16Matrix, ...]

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    @property
    def outputs(self) -> int:
        return self.matrices[0].outputs

    @property
    def inputs(self) -> int:
        return self.matrices[0].inputs

    def __getitem__(self, index: int) -> PackedBfloat16Matrix:
        return self.matrices[index]

    def widen(self, dtype: torch.dtype) -> Tensor:
        return torch.stack([matrix.widen(dtype) for matrix in self.matrices])

    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        return torch.stack([matrix.widen_rows(rows, dtype) for matrix in self.matrices])

    def multiply(self, x: Tensor) -> Tensor:
        raise TypeError("rows are multiplied by one matrix of a stack")


def pack(matrix: Tensor) -> StoredMatrix:
    """Return a matrix, or a stack of them, in the kernels' order; see ``can_pack``."""
    if matrix.dim() > 2:
        return PackedBfloat16Stack(tuple(_pack(part) for part in matrix))
    return _pack(matrix)


def can_pack(matrix: Tensor) -> bool:
    """Whether products with this matrix have the kernels."""
    return matrix.device.type == "cpu" and matrix.dtype == torch.bfloat16 and has_kernels()


@cache
def has_kernels() -> bool:
    """Whether packed matrices are multiplied exactly and can be read back here: tried once.

    With one thread: the event loop's may ask, which must not keep OpenMP threads
    (mesh/inference/threads.py).
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported() and _are_exact()
    except (AttributeError, RuntimeError):
        # Another build of torch, or another release: these functions are not documented.
        return False
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _are_exact() -> bool:
    generator = torch.Generator().manual_seed(_SEED)
    matrix = torch.randn(96, 80, generator=generator).to(torch.bfloat16)
    x = torch.randn(3, 80, generator=generator).to(torch.bfloat16)
    packed = _pack(matrix)
    exact = x.double() @ matrix.double().T
    are_close = all(
        torch.allclose(packed.multiply(rows).double(), exact[: len(rows)], rtol=2.0**-7, atol=1e-3)
        for rows in (x, x[:1])
    )
    return are_close and torch.equal(packed.widen(torch.bfloat16), matrix)


def _pack(matrix: Tensor) -> PackedBfloat16Matrix:
    outputs, inputs = matrix.shape
    step = max(_OUTPUT_STEP, TILE_NUMBERS // inputs // _OUTPUT_STEP * _OUTPUT_STEP)
    tiles: Sequence[Tensor] = torch.split(matrix, step)
    packed = tuple(
        torch.ops.mkldnn._reorder_linear_weight(tile.contiguous(), None) for tile in tiles
    )
    return PackedBfloat16Matrix(packed, step, (outputs, inputs))


def _multiply(x: Tensor, tile: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, tile, None, "none", (), "")
    return product
