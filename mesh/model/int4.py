"""The rule of int4: one scale for 64 numbers of a row, a quarter of bfloat16's memory.

A row is cut into groups of 64 numbers, or of 32 where 64 does not divide it; the last group may be
shorter. A group is stored as integers ``q`` from -8 to 7 and one ``scale``, and serves ``q *
scale``:

1. ``m`` is the group's number of largest magnitude; of two, the negative one.
2. ``scale = m / -8``, rounded to 5 significant bits, halves away from zero. It may be negative.
   Below 2**-100 it is 1, so that the group is served as zeros.
3. ``q = round(w / scale)`` in float32, halves to even, then cut to -8 ... 7.

An integer of 4 bits times a scale of 5 has at most 8 significant bits, so **each value served is a
bfloat16 number exactly**. Every way to compute a product therefore multiplies the same weights:
torch's packed kernel, which widens them inside its loop, the bfloat16 product of the widened
matrix, and float32 in challenges, on every device. The rule is exact float32 steps on the CPU, the
same bits on every machine. Matrices of layers are quantised, and the head; norms, biases, routers
and the embedding are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.quant_types import get_int4_group
from mesh.model.quantise import PlainMatrix, count_tile_rows, multiply_rows, read_exactly

LOWEST, HIGHEST = -8, 7
LEAST_SCALE = 2.0**-100
# Of a float32's 24 significant bits, 5 stay.
_DROPPED_BITS = 24 - 5
_TAG = b"mesh/tensor/int4"


@dataclass(frozen=True, slots=True)
class Int4Matrix(PlainMatrix):
    """``nibbles`` uint8 [outputs, bytes]: q + 8, the even columns in the low half of a byte.

    Rows are filled up with zeros to whole groups; ``scales`` are float32 [outputs, groups].
    """

    nibbles: Tensor
    scales: Tensor
    columns: int

    @property
    def nbytes(self) -> int:
        return int(self.nibbles.nbytes + self.scales.nbytes)

    @property
    def outputs(self) -> int:
        return int(self.nibbles.shape[-2])

    @property
    def inputs(self) -> int:
        return self.columns

    def __getitem__(self, index: int) -> Int4Matrix:
        return Int4Matrix(self.nibbles[index], self.scales[index], self.inputs)

    def widen(self, dtype: torch.dtype) -> Tensor:
        # Float16 has too few exponents for the scales, not for most of the values.
        exact = torch.float32 if dtype == torch.float16 else dtype
        numbers = self.unpack().to(exact)
        numbers.view(*self.scales.shape, -1).mul_(self.scales.unsqueeze(-1).to(exact))
        return numbers[..., : self.inputs].to(dtype).contiguous()

    def widen_rows(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        return Int4Matrix(self.nibbles[rows], self.scales[rows], self.inputs).widen(dtype)

    def unpack(self) -> Tensor:
        """Return q as int8, [outputs, inputs filled up]."""
        halves = torch.stack((self.nibbles & 15, self.nibbles >> 4), dim=-1)
        return halves.flatten(-2).to(torch.int8).add_(LOWEST)

    def multiply(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.linear(x, self.widen(x.dtype))
        step = count_tile_rows(self.inputs)
        tiles = [slice(start, start + step) for start in range(0, self.outputs, step)]
        wide = (self.widen_rows(tile, x.dtype) for tile in tiles)
        return torch.cat([multiply_rows(x, tile, None) for tile in wide], dim=-1)

    def to(self, target: torch.device) -> Int4Matrix:
        return Int4Matrix(self.nibbles.to(target), self.scales.to(target), self.inputs)

    @classmethod
    def join(cls, parts: Sequence[Int4Matrix]) -> Int4Matrix:
        nibbles = torch.cat([part.nibbles for part in parts], dim=-2)
        scales = torch.cat([part.scales for part in parts], dim=-2)
        return Int4Matrix(nibbles, scales, parts[0].inputs)

    def hash(self) -> str:
        """SHA-256 hex: the nibbles by rows, then the little-endian float32 scales."""
        digest = hashlib.sha256(_TAG)
        digest.update(self.nibbles.numpy().tobytes())
        digest.update(self.scales.numpy().astype("<f4").tobytes())
        return digest.hexdigest()


def quantise_int4(matrix: Tensor) -> Int4Matrix:
    """Quantise a matrix [outputs, inputs], or each of a stack.

    Raises ModelError if it is not finite.
    """
    if matrix.dim() > 2:
        parts = [quantise_int4(part) for part in matrix]
        nibbles = torch.stack([part.nibbles for part in parts])
        return Int4Matrix(nibbles, torch.stack([part.scales for part in parts]), parts[0].inputs)
    wide = read_exactly(matrix)
    outputs, inputs = wide.shape
    group = get_int4_group(inputs)
    groups = F.pad(wide, (0, -inputs % group)).view(outputs, -1, group)
    scales = _choose_scales(groups)
    steps = torch.round(groups / scales.unsqueeze(-1)).clamp(LOWEST, HIGHEST)
    halves = (steps - LOWEST).to(torch.uint8).view(outputs, -1, 2)
    return Int4Matrix(halves[..., 0] | (halves[..., 1] << 4), scales, inputs)


def _choose_scales(groups: Tensor) -> Tensor:
    lowest, highest = groups.aminmax(dim=-1)
    scales = torch.where(highest > -lowest, highest, lowest) / LOWEST
    bits = scales.view(torch.int32)
    # In magnitude: the sign is a bit of its own. A carry goes into the exponent, as it should.
    kept = (bits + (1 << (_DROPPED_BITS - 1))) & -(1 << _DROPPED_BITS)
    scales = kept.view(torch.float32)
    return torch.where(scales.abs() < LEAST_SCALE, torch.ones_like(scales), scales)
