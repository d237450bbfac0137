"""Stand-ins for the model: a fixed random function of the challenge, with each machine's noise.

Honest float32 machines agree to about 3e-6 relative; int8 weights are off by about 4e-2.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from consensus.challenge import ModelShape
from consensus.types import LayerRange
from subnet.epoch.interfaces import LayerTask

HONEST_NOISE = 3e-6
INT8_NOISE = 4e-2
SHAPE = ModelShape(num_layers=2, hidden_size=16, vocab_size=64)

Vector = NDArray[np.float32]


class FakeModel:
    """What exact arithmetic would answer; each answer is worked out once for all nodes."""

    def __init__(self) -> None:
        self._rows = np.random.default_rng(7).standard_normal((64, 64))
        self._known: dict[bytes, Vector] = {}

    def answer(self, task: LayerTask) -> Vector:
        parts = [task.layer.to_bytes(4, "little"), task.hidden.tobytes()]
        if task.token_ids is not None:
            parts.append(task.token_ids.tobytes())
        if task.head_rows is not None:
            parts.append(task.head_rows.tobytes())
        key = hashlib.sha256(b"".join(parts)).digest()
        if key not in self._known:
            self._known[key] = self._compute(task)
        return self._known[key]

    def _compute(self, task: LayerTask) -> Vector:
        hidden = task.hidden.astype(np.float64)
        if task.token_ids is not None:
            hidden = hidden + self._rows[task.token_ids, : hidden.shape[1]]
        mixed = np.tanh(hidden.mean(axis=0) + hidden[-1])
        size = len(mixed)
        if task.head_rows is None:
            weights = np.roll(self._rows, task.layer, axis=0)[:size, :size]
            return np.asarray(mixed + mixed @ weights, dtype=np.float32)
        return np.asarray(self._rows[task.head_rows, :size] @ mixed, dtype=np.float32)


Distort = Callable[[Vector, LayerTask], Vector]
"""What a node makes of the exact answer."""


class FakeInference:
    """Satisfies Inference."""

    def __init__(
        self, model: FakeModel, layers: LayerRange, *, distort: Distort, seconds: float = 0.2
    ) -> None:
        self._model = model
        self._layers = layers
        self._distort = distort
        self._seconds = seconds

    @property
    def layers(self) -> LayerRange:
        return self._layers

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[Vector, ...]:
        await asyncio.sleep(self._seconds)
        return tuple(self._distort(self._model.answer(task), task) for task in tasks)


def make_noise(relative: float, seed: int) -> Distort:
    """A machine with this much relative error, a different one in every call."""
    generator = np.random.default_rng(seed)

    def distort(exact: Vector, _task: LayerTask) -> Vector:
        direction = generator.standard_normal(len(exact))
        scale = relative * float(np.linalg.norm(exact)) / float(np.linalg.norm(direction))
        return (exact + scale * direction).astype(np.float32)

    return distort


def make_garbage(seed: int) -> Distort:
    """Numbers of the right size that have nothing to do with the challenge."""
    generator = np.random.default_rng(seed)

    def distort(exact: Vector, _task: LayerTask) -> Vector:
        return (100 * generator.standard_normal(len(exact))).astype(np.float32)

    return distort


def give_nan(exact: Vector, _task: LayerTask) -> Vector:
    """Poison for a mean."""
    return np.full_like(exact, np.nan)


def give_huge(exact: Vector, _task: LayerTask) -> Vector:
    """Finite, and past every bound."""
    return np.full_like(exact, 3e38)


def collude(exact: Vector, task: LayerTask) -> Vector:
    """The lie that colluders agreed on: near each other, far from the truth."""
    lie = np.roll(exact, 1 + task.layer)
    return lie.astype(np.float32)
