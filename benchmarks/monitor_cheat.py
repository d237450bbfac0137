"""The process of a hoster whose answers to challenges are half noise, for monitor_pictures.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consensus.types import LayerRange
from subnet.epoch.interfaces import Inference, LayerTask
from subnet.hosting.serving import LayerServer
from subnet.localnet.child_programs import run_node_child
from subnet.localnet.processes import Message, Send


class NoisyInference:
    """Adds noise of half an answer's size to each answer."""

    def __init__(self, inner: Inference) -> None:
        self._inner = inner
        self._random = np.random.default_rng(1)

    @property
    def layers(self) -> LayerRange:
        return self._inner.layers

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[NDArray[np.float32], ...]:
        answers = await self._inner.run_tasks(tasks)
        return tuple(self._spoil(answer) for answer in answers)

    def _spoil(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = self._random.standard_normal(answer.shape)
        scale = 0.5 * np.linalg.norm(answer) / np.linalg.norm(noise)
        return (answer + scale * noise).astype(np.float32)


def run_cheating_child(config: Message, send: Send) -> None:
    """Run a node as ``mesh localnet`` does, with spoilt answers."""
    honest = LayerServer.get_inference

    def get_inference(self: LayerServer) -> Inference | None:
        inner = honest(self)
        return None if inner is None else NoisyInference(inner)

    LayerServer.get_inference = get_inference  # type: ignore[method-assign]
    run_node_child(config, send)
