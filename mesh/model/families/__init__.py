"""The families of models that are served, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mesh.model.families.llama import LLAMA
from mesh.model.families.mistral import MISTRAL
from mesh.model.families.phi3 import PHI3
from mesh.model.families.qwen2 import QWEN2
from mesh.model.families.qwen3 import QWEN3
from mesh.model.families.qwen3_moe import QWEN3_MOE
from mesh.model.family import Family, LayerList

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig

FAMILIES: Mapping[str, Family] = {
    family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, PHI3)
}


def list_layer(config: ModelConfig) -> LayerList:
    """Return what one transformer layer of this model is made of."""
    return FAMILIES[config.architecture].list_layer(config)
