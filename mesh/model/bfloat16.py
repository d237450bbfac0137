"""Products with bfloat16 matrices on x86-64 processors that have no instructions for them.

With AVX2 and nothing newer, torch computes such a product number by number: several rows take as
long as one after the other, and a row of a matrix that is stored output-major reads 9 GB/s where a
core reads 20. Two things are faster. Measured with one thread, for a 3,072 x 576 matrix:

- **One row.** torch.mv of a matrix that is stored *input-major* adds up columns in float32 and
  rounds once: a head of 49,152 x 576 takes 3.7 ms instead of 6.2. It uses one thread and wants long
  columns, so matrices are stored that way only where there is one thread and many outputs.
- **Several rows.** The matrix is widened tile by tile to float32, which is exact, and multiplied
  there: 2.0 ms instead of 11.8 for 32 rows, 6.3 instead of 47.7 for 128.

Which of them a product takes depends on the processor, the number of threads, the layout and the
number of rows, never on a clock: each has its own last bits.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_INPUT_MAJOR_OUTPUTS = 3072
"""Of fewer, the columns that are read one after the other are too short."""
MIN_WIDENED_ROWS = 4
"""Rows from which widening is faster than one row after the other, input-major."""
MIN_WIDENED_ROWS_OUTPUT_MAJOR = 8
TILE_NUMBERS = 1 << 18
"""Weights widened at once: 1 MiB in float32, which stays in a core's cache."""


@cache
def lacks_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 number by number on this CPU."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def prefers_input_major(tensor: Tensor) -> bool:
    """Whether one row is faster by this matrix, or stack of them, if it is stored input-major."""
    has_long_columns = tensor.shape[-2] >= MIN_INPUT_MAJOR_OUTPUTS
    return has_long_columns and is_slow(tensor) and torch.get_num_threads() == 1


def is_slow(matrix: Tensor) -> bool:
    """Whether :func:`multiply` is to be taken for a matrix [outputs, inputs]."""
    is_bfloat16_on_cpu = matrix.dtype == torch.bfloat16 and matrix.device.type == "cpu"
    return is_bfloat16_on_cpu and lacks_bfloat16()


def multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows [rows, inputs] by a matrix [outputs, inputs]: [rows, outputs] in its type."""
    rows = x.shape[0]
    if matrix.is_contiguous():
        if rows < MIN_WIDENED_ROWS_OUTPUT_MAJOR:
            return F.linear(x, matrix)
        wide = x.float()
        tiles = torch.split(matrix, max(1, TILE_NUMBERS // matrix.shape[1]))
        return torch.cat([F.linear(wide, tile.float()) for tile in tiles], dim=1).to(x.dtype)
    if rows < MIN_WIDENED_ROWS:
        products = [torch.mv(matrix, row) for row in x]
        return products[0].unsqueeze(0) if rows == 1 else torch.stack(products)
    step = max(1, TILE_NUMBERS // matrix.shape[0])
    parts, tiles = torch.split(x.float(), step, dim=1), torch.split(matrix.mT, step)
    product = torch.zeros(rows, matrix.shape[0])
    for part, tile in zip(parts, tiles, strict=True):
        product.addmm_(part, tile.float())
    return product.to(x.dtype)
