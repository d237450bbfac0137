"""Answers of real torch models to real challenges: the truth, and what cheats answer instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from consensus.challenge import (
    ModelShape,
    compute_head_rows,
    compute_layer_input,
    compute_token_ids,
    sample_vector,
)
from consensus.protocol_params import ConsensusParams
from mesh.model.challenge import compute_last_addition, run_challenge_head, run_challenge_layer
from mesh.model.quantise import Matrix, quantise
from mesh.model.weights import LayerWeights, ShardWeights

HONEST_NOISE = 4e-6
"""Relative to the answer: the most that honest machines differ by (facts: an H100 and a CPU)."""
MAX_REMEMBERED = 1 << 12

Vector = NDArray[np.float32]


class ModelAnswers:
    """What one model answers to the challenge of a seed, layer by layer, by kind of machine."""

    def __init__(self, weights: ShardWeights, shape: ModelShape, params: ConsensusParams) -> None:
        self.shape = shape
        self.params = params
        self._weights = weights
        self._wrong = _change_weights(weights, _blur)
        self._kinds: dict[str, Callable[[bytes, int], Vector]] = {
            "honest": lambda seed, layer: self._run(weights, seed, layer),
            "int8": self._with(_change_weights(weights, _to_int8)),
            "int4": self._with(_change_weights(weights, _to_int4)),
            "bf16": self._run_narrow,
            "wrong weights": self._with(self._wrong),
            "skipped layer": self._skip,
            "perturbed relay": self._perturb,
            "garbage": self._make_garbage,
        }
        self._compute = lru_cache(MAX_REMEMBERED)(self._compute_once)

    def answer(self, kind: str, seed: bytes, layer: int) -> Vector:
        """Return the sampled answer, float32; the same array for the same question."""
        return self._compute(kind, seed, layer)

    def _compute_once(self, kind: str, seed: bytes, layer: int) -> Vector:
        output = self._kinds[kind](seed, layer)
        return sample_vector(output, seed=seed, layer=layer, shape=self.shape, params=self.params)

    def _with(self, weights: ShardWeights) -> Callable[[bytes, int], Vector]:
        return lambda seed, layer: self._run(weights, seed, layer)

    def _run(
        self, weights: ShardWeights, seed: bytes, layer: int, hidden: Vector | None = None
    ) -> Vector:
        if hidden is None:
            hidden = compute_layer_input(seed, layer, self.shape, self.params)
        with torch.inference_mode():
            if layer == self.shape.head:
                rows = torch.from_numpy(compute_head_rows(seed, self.shape, self.params))
                return run_challenge_head(weights, torch.from_numpy(hidden), rows).numpy()
            token_ids = None
            if layer == 0:
                token_ids = torch.from_numpy(compute_token_ids(seed, self.shape, self.params))
            output = run_challenge_layer(
                weights, layer, torch.from_numpy(hidden), token_ids=token_ids
            )
            return output.numpy()

    def _run_narrow(self, seed: bytes, layer: int) -> Vector:
        """Compute in bfloat16, as a hoster serves its clients."""
        if layer == self.shape.head:
            return self._run(self._weights, seed, layer)
        x = torch.from_numpy(compute_layer_input(seed, layer, self.shape, self.params))
        if layer == 0:
            token_ids = torch.from_numpy(compute_token_ids(seed, self.shape, self.params))
            assert self._weights.embedding is not None
            x = x + self._weights.embedding[token_ids].float()
        narrow = self._weights.get_layer(layer).cast(torch.bfloat16)
        with torch.inference_mode():
            added = compute_last_addition(self._weights.config, narrow, x.to(torch.bfloat16))
        return added.float().numpy()

    def _skip(self, seed: bytes, layer: int) -> Vector:
        """Answer every layer with the work of the layer before it."""
        if layer in (0, self.shape.head):
            return self._run(self._weights, seed, layer)
        hidden = compute_layer_input(seed, layer, self.shape, self.params)
        return self._run(self._weights, seed, layer - 1, hidden)

    def _perturb(self, seed: bytes, layer: int) -> Vector:
        """Answer what another hoster says to an input that the relay guard lets pass.

        The guard refuses |cosine| > 0.5 with the challenge in any position, so the input that is
        relayed is at least half noise.
        """
        hidden = compute_layer_input(seed, layer, self.shape, self.params)
        noise = np.random.default_rng(layer).standard_normal(hidden.shape).astype(np.float32)
        noise -= hidden * (noise * hidden).sum(1, keepdims=True) / (hidden**2).sum(1, keepdims=True)
        length = np.linalg.norm(hidden, axis=1, keepdims=True)
        noise *= length / np.linalg.norm(noise, axis=1, keepdims=True)
        passing = 0.49 * hidden + np.float32(np.sqrt(1 - 0.49**2)) * noise
        return self._run(self._weights, seed, layer, passing.astype(np.float32))

    def _make_garbage(self, seed: bytes, layer: int) -> Vector:
        """Numbers of the size of an answer; the same for all who agreed on them."""
        size = self._run(self._weights, seed, layer).shape[0]
        generator = np.random.default_rng(int.from_bytes(seed[:8], "little") + layer)
        return generator.standard_normal(size).astype(np.float32)


def blur_answer(vector: Vector, generator: np.random.Generator) -> Vector:
    """Return the answer of another honest machine."""
    noise = generator.standard_normal(vector.shape)
    scale = HONEST_NOISE * np.linalg.norm(vector) / np.linalg.norm(noise)
    return (vector + scale * noise).astype(np.float32)


def _change_weights(
    weights: ShardWeights, change: Callable[[torch.Tensor], Matrix]
) -> ShardWeights:
    """Return the model with every matrix of its layers changed; norms stay."""

    def change_layer(layer: LayerWeights) -> LayerWeights:
        wide = layer.cast(torch.float32)
        matrices = {name: change(getattr(wide, name)) for name in ("qkv", "out", "gate_up", "down")}
        return replace(wide, **matrices)

    return replace(weights, layers=tuple(change_layer(layer) for layer in weights.layers))


def _to_int8(matrix: torch.Tensor) -> Matrix:
    return quantise(matrix)


def _to_int4(matrix: torch.Tensor) -> Matrix:
    """Round to 15 levels a row: the coarsest of the formats that people serve."""
    scales = matrix.abs().amax(dim=1, keepdim=True) / 7
    return torch.round(matrix / scales).clamp(-7, 7) * scales


def _blur(matrix: torch.Tensor) -> Matrix:
    """Weights of a model that was trained a little further."""
    generator = torch.Generator().manual_seed(2)
    return matrix + 0.02 * matrix.std() * torch.randn(matrix.shape, generator=generator)
