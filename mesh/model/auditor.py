"""Answers challenges for any single layer of a model, read from its files when it is asked for.

A validator audits with it: nothing is held between two audits, and of a layer's file only the
tensors of that layer are read. Nothing is downloaded, because an audit has seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from mesh.errors import LayerNotOnDisk, ModelFilesMissing
from mesh.model.abandon import CheckWanted, always_wanted, run_abandonable
from mesh.model.capacity import check_device
from mesh.model.challenge import (
    ChallengeTask,
    compute_last_addition,
    compute_last_logits,
    use_exact_float32,
)
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.files import ModelFolder
from mesh.model.tensors import (
    EMBEDDING,
    FINAL_NORM,
    list_layer_tensors,
    locate_tensors,
)
from mesh.model.weights import (
    LayerWeights,
    TensorReader,
    get_embedding_shape,
    get_head_name,
    is_head_quantised,
    load_layer,
)

T = TypeVar("T")


class Auditor:
    """Reads and runs one layer at a time. Raises DeviceUnavailable when it is made.

    With a ``quant_type`` it answers for the values that such a subnet serves.
    """

    def __init__(
        self,
        folder: ModelFolder,
        config: ModelConfig,
        *,
        device: str = "cpu",
        quant_type: str = "none",
    ) -> None:
        check_device(device)
        self._folder = replace(folder, hub_name=None)
        self._config = config
        self._device = torch.device(device)
        self._quant_type = quant_type
        self._turn = asyncio.Lock()

    @property
    def layers(self) -> LayerSpan:
        """Every layer of the model; the head is audited too."""
        return LayerSpan(0, self._config.num_layers)

    async def run_tasks(self, tasks: Sequence[ChallengeTask]) -> tuple[NDArray[np.float32], ...]:
        """Answer each task alone in float32, in a thread, one layer in memory at a time.

        Raises LayerNotOnDisk, or ModelError for files that are broken.
        """
        async with self._turn:
            return await run_abandonable(
                lambda check_wanted: tuple(self.answer(task, check_wanted) for task in tasks)
            )

    @torch.inference_mode()
    def answer(
        self, task: ChallengeTask, check_wanted: CheckWanted = always_wanted
    ) -> NDArray[np.float32]:
        """Return what the layer adds, or the logits of ``head_rows``. Raises as run_tasks does."""
        use_exact_float32()
        if task.layer == self._config.num_layers:
            vector = self._answer_head(task, check_wanted)
        else:
            x = self.read_input(task, check_wanted)
            weights = self.read_layer(task.layer, check_wanted)
            vector = compute_last_addition(self._config, weights, x)
        found: NDArray[np.float32] = vector.cpu().numpy()
        return found

    def read_layer(self, layer: int, check_wanted: CheckWanted = always_wanted) -> LayerWeights:
        """Read one transformer layer as float32. Raises LayerNotOnDisk or ModelError."""
        names = list_layer_tensors(self._config, layer)
        with ExitStack() as stack:
            reader = self._open(stack, layer, names, check_wanted)
            return _read(layer, lambda: load_layer(self._config, layer, reader)).cast(torch.float32)

    def read_input(self, task: ChallengeTask, check_wanted: CheckWanted = always_wanted) -> Tensor:
        """Return a layer's input on the device, with the embedding rows that belong to it."""
        x = torch.from_numpy(np.array(task.hidden, dtype=np.float32)).to(self._device)
        if task.token_ids is None:
            return x
        return x + self._read_rows(task.layer, EMBEDDING, task.token_ids, check_wanted)

    def read_head(
        self, rows: NDArray[np.int64], check_wanted: CheckWanted = always_wanted
    ) -> tuple[Tensor, Tensor]:
        """Return the final norm [hidden] and these rows of the head. Raises LayerNotOnDisk."""
        layer, config = self._config.num_layers, self._config
        name, shape = get_head_name(config), get_embedding_shape(config)
        index = torch.from_numpy(np.array(rows, dtype=np.int64))
        with ExitStack() as stack:
            reader = self._open(stack, layer, (FINAL_NORM, name), check_wanted)
            final_norm = _read(layer, lambda: reader.read(FINAL_NORM, (config.hidden_size,)))
            is_quantised = is_head_quantised(self._quant_type)
            read = reader.read_matrix_rows if is_quantised else reader.read_rows
            return final_norm, _read(layer, lambda: read(name, shape, index))

    def _answer_head(self, task: ChallengeTask, check_wanted: CheckWanted) -> Tensor:
        if task.head_rows is None:
            raise ValueError("a challenge of the head names its rows")
        final_norm, head_rows = self.read_head(task.head_rows, check_wanted)
        x = torch.from_numpy(np.array(task.hidden, dtype=np.float32)).to(self._device)
        return compute_last_logits(self._config, final_norm, head_rows, x)

    def _read_rows(
        self, layer: int, name: str, rows: NDArray[np.int64], check_wanted: CheckWanted
    ) -> Tensor:
        index = torch.from_numpy(np.array(rows, dtype=np.int64))
        shape = get_embedding_shape(self._config)
        with ExitStack() as stack:
            reader = self._open(stack, layer, (name,), check_wanted)
            return _read(layer, lambda: reader.read_rows(name, shape, index))

    def _open(
        self, stack: ExitStack, layer: int, names: Sequence[str], check_wanted: CheckWanted
    ) -> TensorReader:
        def make() -> TensorReader:
            return TensorReader(
                stack,
                locate_tensors(self._folder, self._config, names),
                dtype=torch.float32,
                device=self._device,
                quant_type=self._quant_type,
                check_wanted=check_wanted,
            )

        return _read(layer, make)


def _read(layer: int, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ModelFilesMissing, SafetensorError, OSError) as error:
        raise LayerNotOnDisk(layer, str(error)) from error
