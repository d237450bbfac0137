"""Which kernel multiplies decode rows on a CPU: tried once for each shape of a runner's matrices.

torch has several kernels for one product, and it depends on the processor, the type and the shape
which of them give a row the same bits and which is fast. Three compute one row: ``alone`` is
F.linear of that row, ``vector`` is torch.mv, ``pair`` is F.linear of the row twice. Several rows
are computed jointly, or one after the other. In bfloat16 with 2,048 columns, for example, all agree
with AVX2; with AVX-512's bfloat16 instructions ``alone`` differs from a joint product; with AVX-512
without those only ``pair`` agrees with it. A matrix that is not a plain tensor has kernels of its
own, so ``vector`` is ``alone`` there.

- **Default.** One row takes the fastest kernel among those that give ``alone``'s bits: what is
  chosen by a clock must not change an answer. Several rows share a product, except that float32
  rows fewer than ``MIN_JOINT_ROWS`` are faster one by one.
- **Deterministic.** If some kernel of one row gives the bits of joint products, the fastest such
  one is taken, and rows are computed jointly in numbers that were tried. Otherwise every decode row
  is computed alone. Either way its bits do not depend on a crowd.

The trial's sums cancel exactly, so that a result is nothing but accumulated rounding, and another
order of adding shows in almost every number: with ordinary numbers, one in 5,000 bfloat16 outputs
would differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.quantise import Matrix, Multiply, StoredMatrix, multiply_rows
from mesh.model.weights import ShardWeights, lay_out, quantise_as

MIN_JOINT_ROWS = 4
"""Float32 rows on a CPU from which one product of all is faster than one for each (x86-64)."""
TRIED_SIZES = (2, 3, 4, 5, 6, 7, 8, 16, 32)
DIFFERENT_ROWS = 8
"""Rows of the trial; the larger sizes repeat them."""
MAX_TRIAL_NUMBERS = 1 << 25
"""Weights up to which the trial makes a matrix of its own; a larger one is tried itself."""
TIMED_BYTES = 64 << 20
"""Weights read to time a kernel: more than caches hold."""
TIMED_ROUNDS = 3
_SEED = 23

Key = tuple[object, ...]
OneRow = Callable[[Tensor, Matrix], Tensor]
"""(row [1, inputs], weights [outputs, inputs]) -> [1, outputs]."""


def multiply_alone(row: Tensor, matrix: Matrix) -> Tensor:
    return multiply_rows(row, matrix, None)


def multiply_vector(row: Tensor, matrix: Matrix) -> Tensor:
    if not isinstance(matrix, Tensor):
        return multiply_alone(row, matrix)
    return torch.mv(matrix, row[0]).unsqueeze(0)


def multiply_pair(row: Tensor, matrix: Matrix) -> Tensor:
    return multiply_rows(row.expand(2, -1), matrix, None)[:1]


ONE_ROW_KERNELS: tuple[OneRow, ...] = (multiply_alone, multiply_vector, multiply_pair)


@dataclass(frozen=True, slots=True)
class RowKernel:
    """How rows are multiplied by matrices of one shape: one alone, and numbers of them jointly.

    ``joint_sizes`` fall from the largest to 1; a joint product gives a row the bits of ``one``.
    """

    one: OneRow
    joint_sizes: tuple[int, ...] = (1,)

    def multiply(self, x: Tensor, matrix: Matrix) -> Tensor:
        """Multiply one of these numbers of rows."""
        return self.one(x, matrix) if x.shape[0] == 1 else multiply_rows(x, matrix, None)


class Products:
    """The products of one runner."""

    def __init__(self, weights: ShardWeights, *, deterministic: bool) -> None:
        self._is_on_cpu = weights.device.type == "cpu"
        self._deterministic = deterministic
        self._prefers_one_by_one = weights.dtype == torch.float32 and weights.quant_type == "none"
        self._kernels: Mapping[Key, RowKernel] = {}
        if self._is_on_cpu:
            with torch.inference_mode():
                self._kernels = try_kernels(weights, deterministic=deterministic)

    def choose(self, rows: int, *, are_decodes: bool) -> Multiply:
        """Return the product for so many rows; ``are_decodes`` says that they are of different
        sessions, not of one prompt.
        """
        if not self._is_on_cpu or (rows > 1 and not are_decodes):
            return multiply_rows
        if rows == 1 and not self._kernels:
            return _multiply_jointly
        few = self._prefers_one_by_one and rows < MIN_JOINT_ROWS
        is_alike = rows == 1 or few or self._deterministic
        return self._multiply_alike if is_alike else _multiply_jointly

    def _multiply_alike(self, x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
        kernel = self._kernels.get(get_key(matrix), _PLAIN)
        if x.shape[0] == 1:
            product = kernel.one(x, matrix)
        else:
            pieces = _split_rows(x, kernel.joint_sizes)
            product = torch.cat([kernel.multiply(piece, matrix) for piece in pieces])
        return product if bias is None else product + bias


_PLAIN = RowKernel(multiply_alone)


def _multiply_jointly(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    product = multiply_rows(x, matrix, None)
    # Apart, as it is for one row: kernels differ in where they round.
    return product if bias is None else product + bias


def get_key(matrix: Matrix) -> Key:
    """Return what decides which kernels a runner's product has."""
    if isinstance(matrix, StoredMatrix):
        return (type(matrix), matrix.outputs, matrix.inputs)
    return tuple(matrix.shape)


def _split_rows(x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    start, rows = 0, x.shape[0]
    while start < rows:
        size = next(size for size in sizes if size <= rows - start)
        yield x[start : start + size]
        start += size


def try_kernels(weights: ShardWeights, *, deterministic: bool) -> dict[Key, RowKernel]:
    """Choose the kernel of each shape of a shard's matrices."""
    if not deterministic and (weights.dtype == torch.float32 or weights.quant_type != "none"):
        # One kernel computes a float32 row however it is called, and a quantised one has its own.
        return {}
    found = {}
    for key, matrices in list_shapes(weights).items():
        if not deterministic and isinstance(matrices[0], StoredMatrix):
            continue
        trial = Trial.make(matrices[0], weights)
        speeds = {one: _time(one, trial.x[:1], matrices) for one in ONE_ROW_KERNELS}
        found[key] = choose_kernel(trial, speeds, deterministic=deterministic)
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows and a matrix whose products show in which order a kernel adds."""

    x: Tensor
    matrix: Matrix

    @classmethod
    def make(cls, like: Matrix, weights: ShardWeights) -> Trial:
        """Return a trial for matrices like this one. Half of the columns repeat the others with
        the other sign, shuffled.
        """
        outputs, inputs = _get_shape(like)
        generator = torch.Generator().manual_seed(_SEED)
        half, odd = divmod(inputs, 2)
        shuffled = torch.randperm(half, generator=generator)

        def cancel(part: Tensor, sign: int) -> Tensor:
            return F.pad(torch.cat((part, sign * part[:, shuffled]), dim=1), (0, odd))

        x = cancel(torch.randn(DIFFERENT_ROWS, half, generator=generator), 1).to(weights.dtype)
        if outputs * inputs > MAX_TRIAL_NUMBERS:
            return cls(x, like)
        plain = cancel(torch.randn(outputs, half, generator=generator), -1)
        matrix = quantise_as(like, plain, weights.dtype)
        if isinstance(matrix, Tensor) and isinstance(like, Tensor):
            # Stored as the other one is: kernels depend on it.
            return cls(x, torch.empty_like(like).copy_(matrix))
        return cls(x, lay_out(matrix, weights.dtype))

    def compute(self, one: OneRow) -> Tensor:
        """Return each row's product alone."""
        return torch.cat([one(self.x[i : i + 1], self.matrix) for i in range(DIFFERENT_ROWS)])

    def repeat_rows(self) -> Tensor:
        """Return as many rows as the largest size has."""
        return self.x.repeat(-(-max(TRIED_SIZES) // DIFFERENT_ROWS), 1)

    def list_joint_sizes(self, alone: Tensor) -> tuple[int, ...]:
        """Return the numbers of rows whose joint products have these bits, the largest first."""
        x = self.repeat_rows()
        expected = alone.repeat(len(x) // DIFFERENT_ROWS, 1)
        sizes = [
            size
            for size in TRIED_SIZES
            if torch.equal(multiply_rows(x[:size], self.matrix, None), expected[:size])
        ]
        return (*reversed(sizes), 1)


def choose_kernel(
    trial: Trial, seconds: Mapping[OneRow, float], *, deterministic: bool
) -> RowKernel:
    """Return the kernel for one shape, from the trial's bits and what each takes for one row."""
    alone = trial.compute(multiply_alone)
    if not deterministic:
        same = [one for one in seconds if torch.equal(trial.compute(one), alone)]
        return RowKernel(min(same, key=lambda one: seconds[one]))
    choices = [RowKernel(one, trial.list_joint_sizes(trial.compute(one))) for one in seconds]
    most = max(len(choice.joint_sizes) for choice in choices)
    if most == 1:
        return _PLAIN
    best = [choice for choice in choices if len(choice.joint_sizes) == most]
    return min(best, key=lambda choice: seconds[choice.one])


def list_shapes(weights: ShardWeights) -> dict[Key, list[Matrix]]:
    """Return matrices of each shape, up to ``TIMED_BYTES``; of experts the first one of a layer."""
    found: dict[Key, list[Matrix]] = {}
    for matrix in weights.list_matrices():
        known = found.setdefault(get_key(matrix), [])
        if sum(one.nbytes for one in known) < TIMED_BYTES:
            known.append(matrix)
    return found


def _get_shape(matrix: Matrix) -> tuple[int, int]:
    if isinstance(matrix, StoredMatrix):
        return matrix.outputs, matrix.inputs
    outputs, inputs = matrix.shape
    return outputs, inputs


def _time(one: OneRow, row: Tensor, matrices: Sequence[Matrix]) -> float:
    """Return the seconds that one row takes by all of these matrices; the best round counts."""
    rounds = []
    for _ in range(TIMED_ROUNDS):
        started = time.perf_counter()
        for matrix in matrices:
            one(row, matrix)
        rounds.append(time.perf_counter() - started)
    return min(rounds)
