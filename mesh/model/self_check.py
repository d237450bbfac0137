"""Whether this machine's float32 is float32: one layer against a plain float64 computation.

TF32 and its like are switched on by environment variables and libraries as well as by settings. An
honest node that computes with them stands 1.6 to 8 times the tolerance away and would be refuted,
so it compares itself before it goes online.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mesh.errors import InexactArithmetic
from mesh.model.challenge import compute_last_addition
from mesh.model.config import ModelConfig
from mesh.model.quantise import Matrix, StoredMatrix
from mesh.model.weights import LayerWeights

MAX_ERROR = 2.0**-15
"""An eighth of the tolerance: eight times what any honest machine showed, a twelfth of TF32."""
POSITIONS = 16
TILE_ROWS = 512
_SEED = 17


@torch.inference_mode()
def check_float32(config: ModelConfig, weights: LayerWeights, device: torch.device) -> None:
    """Run one layer as a challenge does and in float64 on the CPU.

    ``weights`` are on ``device``, in any type. Raises InexactArithmetic where the two differ.
    """
    x = draw_input(config)
    found = compute_last_addition(config, weights.cast(torch.float32), x.to(device))
    exact = compute_last_addition(
        config, weights.change_vectors(_to_float64), x.double(), multiply=multiply_exactly
    )
    error = float((found.cpu().double() - exact).norm() / exact.norm())
    # A negation, because NaN is not larger than anything.
    if not error <= MAX_ERROR:
        raise InexactArithmetic(
            f"a block computed in float32 on {device} is {error:.1e} away from float64, "
            f"and honest machines are within {MAX_ERROR:.1e}"
        )


def draw_input(config: ModelConfig) -> Tensor:
    """Return float32 [positions, hidden] like a challenge's, the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randint(-127, 128, (POSITIONS, config.hidden_size), generator=generator)
    return drawn.float() / 64


def multiply_exactly(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """Multiply float64 rows by a matrix of any type, a tile of it widened at a time."""
    starts = range(0, _count_rows(matrix), TILE_ROWS)
    product = torch.cat([x @ _widen_tile(matrix, start).T for start in starts], dim=-1)
    return product if bias is None else product + bias


def _count_rows(matrix: Matrix) -> int:
    return matrix.outputs if isinstance(matrix, StoredMatrix) else int(matrix.shape[0])


def _widen_tile(matrix: Matrix, start: int) -> Tensor:
    rows = slice(start, start + TILE_ROWS)
    if isinstance(matrix, StoredMatrix):
        return matrix.widen_rows(rows, torch.float64).cpu()
    return _to_float64(matrix[rows])


def _to_float64(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float64)
