"""Asking a network for answers: over peer-to-peer streams, through transformers, or over HTTP.

Importing this package is cheap: what a name needs is imported when the name is first used. Only
``HttpMeshClient`` needs neither hivemind nor torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.client.auto import (
        AutoDistributedModelForCausalLM as AutoDistributedModelForCausalLM,
    )
    from mesh.client.auto import DistributedModelForCausalLM as DistributedModelForCausalLM
    from mesh.client.client import MeshClient as MeshClient
    from mesh.client.client import RoutingOptions as RoutingOptions
    from mesh.client.connection import connect as connect
    from mesh.client.http import HttpMeshClient as HttpMeshClient
    from mesh.inference.sampling import Sampling as Sampling
    from mesh.inference.tokens import Token as Token
    from mesh.inference.tokens import Trace as Trace

_HOMES = {
    "AutoDistributedModelForCausalLM": "mesh.client.auto",
    "DistributedModelForCausalLM": "mesh.client.auto",
    "HttpMeshClient": "mesh.client.http",
    "MeshClient": "mesh.client.client",
    "RoutingOptions": "mesh.client.client",
    "Sampling": "mesh.inference.sampling",
    "Token": "mesh.inference.tokens",
    "Trace": "mesh.inference.tokens",
    "connect": "mesh.client.connection",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    # A name such as ``connect`` is also a module's: the next use must find this value.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
