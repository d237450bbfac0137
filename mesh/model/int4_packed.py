"""int4 matrices as torch's CPU kernel reads them, for products with bfloat16 rows.

The kernel widens a block of 64 outputs (32 with AVX2) inside its loop and adds a row's products up
in float32 in the order of the columns. So an output has the same bits for any number of rows and
threads, and with AVX2 and AVX-512 alike. How torch orders the outputs of a block is its own affair
and differs between instruction sets: it is found out by packing known numbers. One small product at
the first use shows whether all of this holds; otherwise matrices stay as mesh/model/int4.py has
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mesh.model.int4 import LOWEST, Int4Matrix, quantise_int4
from mesh.model.quant_types import get_int4_group
from mesh.model.quantise import StoredMatrix, count_tile_rows

OUTPUT_STEP = 16
"""The kernel takes multiples of that many outputs."""
PACKING_ROWS = 1024
"""Outputs packed at once: between, a number takes four bytes."""
MAX_PACKED_ROWS = 48
"""Rows up to which the kernel is faster than widening tile by tile on a processor with AMX. On
others it is faster for as many as a prompt's step has (x86-64).
"""
_BLOCKS = {"AVX512": 64, "AVX2": 32}
_INNER_TILES = 2
"""An argument of torch's function that its CPU kernel does not look at."""
_TRIED_ROWS = 9
_SEED = 5


@dataclass(frozen=True, slots=True)
class PackedInt4Matrix(StoredMatrix):
    """``packed`` uint8 [outputs, inputs / 2], in blocks of the kernel's own order.

    ``scales`` are bfloat16 [groups, outputs, 2]; the kernel adds the second one of each pair to
    every number, and it is 0 here.
    """

    packed: Tensor
    scales: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.packed.nbytes + self.scales.nbytes)

    @property
    def outputs(self) -> int:
        return int(self.packed.shape[-2])

    @property
    def inputs(self) -> int:
        return 2 * int(self.packed.shape[-1])

    def __getitem__(self, index: int) -> PackedInt4Matrix:
        return PackedInt4Matrix(self.packed[index], self.scales[index])

    def widen(self, dtype: torch.dtype) -> Tensor:
        if self.packed.dim() > 2:
            return torch.stack([self[i].widen(dtype) for i in range(self.packed.shape[0])])
        whole = torch.empty((self.outputs, self.inputs), dtype=dtype)
        for start, end in self._iterate():
            # In bfloat16 so far, which holds every value.
            whole[start:end] = _restore(self._widen_columns(start, end)).T
        return whole

    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(self.outputs))
        size = get_block_size()
        blocks = rows // size
        touched = torch.unique(blocks)
        starts = [int(block) * size for block in touched]
        columns = [self._widen_columns(i, min(i + size, self.outputs)) for i in starts]
        wide = [_restore(some).T for some in columns]
        # Only the last block can be shorter than the others.
        places = torch.searchsorted(touched, blocks) * size + rows % size
        return torch.cat(wide)[places].to(dtype)

    def multiply(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and (x.shape[0] <= MAX_PACKED_ROWS or not has_amx()):
            return multiply_packed(x.contiguous(), self.packed, self.scales)
        return torch.cat([self._multiply_tile(x, *tile) for tile in self._iterate()], dim=-1)

    def _multiply_tile(self, x: Tensor, start: int, end: int) -> Tensor:
        return _restore(torch.matmul(x, self._widen_columns(start, end).to(x.dtype)))

    def _iterate(self) -> Iterator[tuple[int, int]]:
        """Split the outputs into tiles of whole blocks of one size."""
        size = get_block_size()
        whole = self.outputs // size * size
        step = max(size, count_tile_rows(self.inputs) // size * size)
        yield from _split_range(0, whole, step)
        yield from _split_range(whole, self.outputs, step)

    def _widen_columns(self, start: int, end: int) -> Tensor:
        """Return bfloat16 [inputs, outputs], the outputs of each block in the kernel's order.

        One matrix, not one for each block: 512 rows are multiplied by it 1.7 times as fast.
        """
        size = min(get_block_size(), end - start)
        groups = self.scales.shape[0]
        codes = self.packed[start:end].view(-1, self.inputs, size // 2).transpose(0, 1)
        pairs = make_pairs().index_select(0, codes.flatten().int())
        numbers = pairs.view(torch.bfloat16).view(groups, -1, end - start)
        scales = self.scales[:, start:end, 0].view(groups, -1, size)[..., find_order(size)]
        return numbers.mul_(scales.view(groups, 1, end - start)).view(self.inputs, end - start)


def pack(matrix: Int4Matrix) -> PackedInt4Matrix:
    """Return a matrix, or a stack of them, in the kernel's form; see ``can_pack``."""
    if matrix.nibbles.dim() > 2:
        parts = [pack(matrix[i]) for i in range(matrix.nibbles.shape[0])]
        packed = torch.stack([part.packed for part in parts])
        return PackedInt4Matrix(packed, torch.stack([part.scales for part in parts]))
    pieces = torch.split(matrix.nibbles, PACKING_ROWS)
    packed = torch.cat([_pack(Int4Matrix(p, matrix.scales, matrix.inputs)) for p in pieces])
    scales = matrix.scales.T.to(torch.bfloat16)
    return PackedInt4Matrix(packed, torch.stack((scales, torch.zeros_like(scales)), dim=-1))


def can_pack(matrix: Int4Matrix, dtype: torch.dtype) -> bool:
    """Whether products of this matrix with rows of ``dtype`` have the kernel."""
    return (
        dtype == torch.bfloat16
        and matrix.nibbles.device.type == "cpu"
        and matrix.outputs % OUTPUT_STEP == 0
        and matrix.inputs % get_int4_group(matrix.inputs) == 0
        and has_kernel()
    )


def get_block_size() -> int:
    """Return the outputs of a whole block; 0 where the kernel has no vector instructions."""
    return _BLOCKS.get(torch.backends.cpu.get_cpu_capability(), 0)


@cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 numbers, which many rows are fast with."""
    return torch.cpu._is_amx_tile_supported()


@cache
def has_kernel() -> bool:
    """Whether the kernel multiplies the rule's values here, and can be unpacked: tried once.

    The product has outputs beside whole blocks, and rows that are computed alone and together.
    """
    if not get_block_size():
        return False
    generator = torch.Generator().manual_seed(_SEED)
    plain = quantise_int4(torch.randn(64 + 48, 128, generator=generator))
    x = torch.randn(_TRIED_ROWS, 128, generator=generator).to(torch.bfloat16)
    packed = pack(plain)
    values = plain.widen(torch.float64)
    if not torch.equal(packed.widen(torch.float64), values):
        return False
    found = packed.multiply(x)
    alone = torch.cat([packed.multiply(x[i : i + 1]) for i in range(_TRIED_ROWS)])
    # Half a step of bfloat16 of an output, and float32's rounding of the sum.
    is_close = torch.allclose(found.double(), x.double() @ values.T, rtol=2.0**-8, atol=1e-4)
    return is_close and torch.equal(found, alone)


def _restore(columns: Tensor) -> Tensor:
    """Put the columns, outputs of whole blocks or of the last one, into their order."""
    size = min(get_block_size(), columns.shape[-1])
    blocks = columns.view(columns.shape[0], -1, size)
    return blocks[..., find_order(size).argsort()].flatten(1)


@cache
def find_order(size: int) -> Tensor:
    """Return which output stands at each place of a packed block of ``size`` outputs.

    A byte's low half is a place, its high half the next one.
    """
    numbers = torch.arange(size)
    low, high = (
        _pack_numbers(digit.unsqueeze(1).expand(-1, 2)).flatten()[: size // 2]
        for digit in (numbers & 15, numbers >> 4)
    )
    places = [(low >> shift & 15) + 16 * (high >> shift & 15).long() for shift in (0, 4)]
    return torch.stack(places, dim=-1).flatten()


@cache
def make_pairs() -> Tensor:
    """Return for each byte its two numbers in bfloat16, as one int32 of the same bits."""
    halves = torch.arange(256)
    pairs = torch.stack((halves & 15, halves >> 4), dim=-1) + LOWEST
    return pairs.to(torch.bfloat16).view(torch.int32).flatten()


def multiply_packed(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """Call torch's kernel for contiguous bfloat16 rows."""
    group = x.shape[1] // scales.shape[0]
    found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, scales)
    return found


def _pack(matrix: Int4Matrix) -> Tensor:
    return _pack_numbers(matrix.unpack() - LOWEST)


def _pack_numbers(numbers: Tensor) -> Tensor:
    wide = numbers.to(torch.int32).contiguous()
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(wide, _INNER_TILES)
    return packed


def _split_range(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(start, end, step):
        yield first, min(first + step, end)
