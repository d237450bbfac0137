"""The families of models that are served: one file each, and those of plug-ins.

A plug-in names itself by the architecture in config.json, as in ``MyForCausalLM = "my_family:MY"``
under ``mesh.families``. What is built in cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from mesh.errors import PluginFailed
from mesh.model.families.llama import LLAMA
from mesh.model.families.mistral import MISTRAL
from mesh.model.families.phi3 import PHI3
from mesh.model.families.qwen2 import QWEN2
from mesh.model.families.qwen3 import QWEN3
from mesh.model.families.qwen3_moe import QWEN3_MOE
from mesh.model.family import Family, LayerList
from mesh.plugins import PluginKind, find_plugin, list_plugin_names, load_plugin

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig

FAMILIES: Mapping[str, Family] = {
    family.architecture: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, PHI3)
}


def find_family(architecture: str) -> Family | None:
    """Return the family of an architecture, built in or of a plug-in; None if there is neither.

    Raises PluginFailed for a plug-in that cannot be used.
    """
    return FAMILIES.get(architecture) or _find_plugged(architecture)


@cache
def _find_plugged(architecture: str) -> Family | None:
    if architecture not in list_plugin_names(PluginKind.FAMILY):
        return None
    family = load_plugin(find_plugin(PluginKind.FAMILY, architecture))
    if not isinstance(family, Family):
        raise PluginFailed(
            PluginKind.FAMILY,
            architecture,
            f"its entry point is a {type(family).__name__}, not a Family of mesh.model.family",
        )
    if family.architecture != architecture:
        raise PluginFailed(
            PluginKind.FAMILY, architecture, f"it is for {family.architecture} by its own word"
        )
    return family


def list_architectures() -> tuple[str, ...]:
    """Return every architecture that can be served here."""
    return tuple(sorted({*FAMILIES, *list_plugin_names(PluginKind.FAMILY)}))


def list_layer(config: ModelConfig) -> LayerList:
    """Return what one transformer layer of this model is made of."""
    family = find_family(config.architecture)
    assert family is not None, "a config is read with its family"
    return family.list_layer(config)
