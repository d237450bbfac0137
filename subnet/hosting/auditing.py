"""Auditing as the epoch loop sees it: any single layer, from files that fit the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from consensus.protocol_params import ConsensusParams
from consensus.types import LayerRange
from mesh.model.abandon import run_abandonable
from mesh.model.auditor import Auditor
from mesh.model.config import ModelConfig
from mesh.model.files import ModelFolder
from mesh.model.manifest import ModelManifest, check_manifest
from subnet.epoch.interfaces import LayerTask
from subnet.hosting.manifest import describe_constants


class AuditInference:
    """Answers for every layer of the model. Satisfies subnet.epoch.interfaces.Inference.

    A layer's weights are compared with the manifest the first time that it is audited: wrong files
    would refute honest hosters. Raises DeviceUnavailable when it is made.
    """

    def __init__(
        self,
        folder: ModelFolder,
        model: ModelConfig,
        manifest: ModelManifest,
        *,
        params: ConsensusParams,
        device: str = "cpu",
    ) -> None:
        # Nothing is downloaded in the middle of an epoch.
        self._folder = replace(folder, hub_name=None)
        self._model = model
        self._manifest = manifest
        self._params = params
        self._auditor = Auditor(self._folder, model, device=device, quant_type=manifest.quant_type)
        self._checked: set[int] = set()

    @property
    def layers(self) -> LayerRange:
        return LayerRange(0, self._model.num_layers)

    async def run_tasks(self, tasks: Sequence[LayerTask]) -> tuple[NDArray[np.float32], ...]:
        """Run each task alone in float32.

        Raises LayerNotOnDisk for a layer that the files lack, ManifestMismatch for other weights
        than the subnet's, or ModelError for broken files.
        """
        answers = await self._auditor.run_tasks(tasks)
        for layer in sorted({task.layer for task in tasks} - self._checked):
            await self._check_weights(layer)
            self._checked.add(layer)
        return answers

    async def _check_weights(self, layer: int) -> None:
        # The head's weights belong to the range of the last layer.
        start = min(layer, self._model.num_layers - 1)
        await run_abandonable(
            lambda check_wanted: check_manifest(
                self._manifest,
                self._folder,
                self._model,
                start=start,
                end=start + 1,
                served_dtype="float32",
                constants=describe_constants(self._params),
                quant_type=self._manifest.quant_type,
                check_wanted=check_wanted,
                is_reported=False,
            )
        )
