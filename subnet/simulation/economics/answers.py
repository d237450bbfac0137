"""Answers of a real model to real challenges: the truth, and what cheats answer instead."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import (
    ModelShape,
    compute_head_rows,
    compute_layer_input,
    compute_token_ids,
    sample_vector,
)
from consensus.protocol_params import ConsensusParams
from mesh.inference.challenge_guard import ChallengeGuard
from mesh.model.cheats import Cheats

HONEST_NOISE = 4e-6
"""Relative to the answer: the most that honest machines were seen to differ by (GPU and CPU)."""
MAX_REMEMBERED = 1 << 12
PASSING_COSINE = 0.49
"""The relay guard refuses more than 0.5 in any position."""

Vector = NDArray[np.float32]


class ModelAnswers:
    """What one model answers to the challenge of a seed, layer by layer, by kind of machine."""

    def __init__(self, cheats: Cheats, shape: ModelShape, params: ConsensusParams) -> None:
        self.shape = shape
        self.params = params
        self._cheats = cheats
        self._compute = lru_cache(MAX_REMEMBERED)(self._compute_once)

    def answer(self, kind: str, seed: bytes, layer: int) -> Vector | None:
        """Return the sampled answer, float32; the same array for the same question.

        None for a relay whose input another hoster's guard refuses.
        """
        return self._compute(kind, seed, layer)

    def _compute_once(self, kind: str, seed: bytes, layer: int) -> Vector | None:
        hidden = compute_layer_input(seed, layer, self.shape, self.params)
        if kind == "perturbed relay":
            hidden = _perturb(hidden, layer)
        if kind.endswith("relay") and not self._is_computed(hidden, seed, layer):
            return None
        output = self._run(kind, seed, layer, hidden)
        if kind == "garbage":
            generator = np.random.default_rng(int.from_bytes(seed[:8], "little") + layer)
            output = generator.standard_normal(len(output)).astype(np.float32)
        return sample_vector(output, seed=seed, layer=layer, shape=self.shape, params=self.params)

    def _is_computed(self, hidden: Vector, seed: bytes, layer: int) -> bool:
        """Whether another hoster computes ``hidden`` while the challenge of ``seed`` is open."""
        guard = ChallengeGuard()
        guard.open(seed, lambda asked: compute_layer_input(seed, asked, self.shape, self.params))
        return guard.admits(layer, hidden)

    def _run(self, kind: str, seed: bytes, layer: int, hidden: Vector) -> Vector:
        if layer == self.shape.head:
            return self._cheats.run_head(hidden, compute_head_rows(seed, self.shape, self.params))
        token_ids = None if layer else compute_token_ids(seed, self.shape, self.params)
        return self._cheats.run_layer(kind, layer, hidden, token_ids)


def blur_answer(vector: Vector, generator: np.random.Generator) -> Vector:
    """Return the answer of another honest machine."""
    noise = generator.standard_normal(vector.shape)
    scale = HONEST_NOISE * float(np.linalg.norm(vector)) / float(np.linalg.norm(noise))
    return np.asarray(vector + scale * noise, dtype=np.float32)


def _perturb(hidden: Vector, layer: int) -> Vector:
    """Return the nearest input to a challenge that the relay guard lets pass.

    A cheat would have another hoster compute it; more than half of it is noise.
    """
    noise = np.random.default_rng(layer).standard_normal(hidden.shape)
    along = (noise * hidden).sum(1, keepdims=True) / (hidden**2).sum(1, keepdims=True)
    across = noise - hidden * along
    across *= np.linalg.norm(hidden, axis=1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    passing = PASSING_COSINE * hidden + np.sqrt(1 - PASSING_COSINE**2) * across
    return np.asarray(passing, dtype=np.float32)
