"""Answers of cheaper computations to a challenge, in torch.

The table of cheats measures them: int8 and 4-bit weights, bfloat16 arithmetic, another layer,
other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mesh.model.challenge import (
    compute_last_addition,
    run_challenge_head,
    run_challenge_layer,
)
from mesh.model.quantise import Matrix, quantise
from mesh.model.weights import ShardWeights

Vector = NDArray[np.float32]
_RUNG_COUNT = 7
"""Values of a 4-bit weight on either side of 0."""


class Cheats:
    """Answers challenges with one model's weights, honestly or in a cheaper way."""

    KINDS = ("honest", "int8", "int4", "bf16", "skipped layer", "wrong weights")

    def __init__(self, weights: ShardWeights) -> None:
        # Layers of small models are faster on one thread.
        torch.set_num_threads(1)
        self._weights = weights
        self._by_kind: dict[str, ShardWeights] = {}

    def run_layer(
        self, kind: str, layer: int, hidden: Vector, token_ids: NDArray[np.int64] | None
    ) -> Vector:
        """Return what ``kind`` answers for a layer: float32 [hidden]."""
        x = torch.from_numpy(hidden)
        ids = None if token_ids is None else torch.from_numpy(token_ids)
        with torch.inference_mode():
            if kind == "bf16":
                return _to_numpy(self._run_narrow(layer, x, ids))
            if kind == "skipped layer" and layer > 0:
                return _to_numpy(run_challenge_layer(self._weights, layer - 1, x))
            return _to_numpy(run_challenge_layer(self._get_weights(kind), layer, x, token_ids=ids))

    def run_head(self, hidden: Vector, rows: NDArray[np.int64]) -> Vector:
        """Return the logits ``rows`` of the head, float32; every kind computes them honestly."""
        with torch.inference_mode():
            logits = run_challenge_head(
                self._weights, torch.from_numpy(hidden), torch.from_numpy(rows)
            )
            return _to_numpy(logits)

    def _get_weights(self, kind: str) -> ShardWeights:
        change = CHANGES.get(kind)
        if change is None:
            return self._weights
        if kind not in self._by_kind:
            self._by_kind[kind] = _change_weights(self._weights, change)
        return self._by_kind[kind]

    def _run_narrow(
        self, layer: int, x: torch.Tensor, token_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute in bfloat16, as many hosters serve their clients."""
        if token_ids is not None and self._weights.embedding is not None:
            x = x + self._weights.embedding[token_ids].float()
        narrow = self._weights.get_layer(layer).cast(torch.bfloat16)
        return compute_last_addition(self._weights.config, narrow, x.to(torch.bfloat16))


def _to_numpy(output: torch.Tensor) -> Vector:
    vector: Vector = output.float().numpy()
    return vector


def _change_weights(
    weights: ShardWeights, change: Callable[[torch.Tensor], Matrix]
) -> ShardWeights:
    """Return the model with every matrix of its layers changed; norms stay."""

    layers = tuple(layer.cast(torch.float32).change_matrices(change) for layer in weights.layers)
    return replace(weights, layers=layers)


def _round_to_4_bits(matrix: torch.Tensor) -> Matrix:
    """Round each row to 15 values: the coarsest format that people serve."""
    scales = matrix.abs().amax(dim=-1, keepdim=True) / _RUNG_COUNT
    return torch.round(matrix / scales).clamp(-_RUNG_COUNT, _RUNG_COUNT) * scales


def _train_further(matrix: torch.Tensor) -> Matrix:
    """Return weights of a model that was trained a little longer."""
    generator = torch.Generator().manual_seed(2)
    return matrix + 0.02 * matrix.std() * torch.randn(matrix.shape, generator=generator)


CHANGES: Mapping[str, Callable[[torch.Tensor], Matrix]] = {
    "int8": quantise,
    "int4": _round_to_4_bits,
    "wrong weights": _train_further,
}
