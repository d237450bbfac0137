"""Asking a network for answers: over peer-to-peer streams, through transformers, or over HTTP.

Importing this package is cheap: what a name needs is imported when the name is first used.
``HttpMeshClient`` and receipts need neither hivemind nor torch nor transformers; to check a receipt
needs PyNaCl, base58 and pydantic.
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
    from mesh.client.connection import connect as connect
    from mesh.client.http import HttpMeshClient as HttpMeshClient
    from mesh.client.receipt_check import CheckedReceipt as CheckedReceipt
    from mesh.client.receipt_check import ReceiptRefused as ReceiptRefused
    from mesh.client.receipt_check import check_receipt as check_receipt
    from mesh.client.receipts import AnswerReceipt as AnswerReceipt
    from mesh.client.receipts import NoReceipt as NoReceipt
    from mesh.client.route_search import RoutingOptions as RoutingOptions
    from mesh.client.sync import SyncHttpMeshClient as SyncHttpMeshClient
    from mesh.client.sync import SyncMeshClient as SyncMeshClient
    from mesh.inference.sampling import Sampling as Sampling
    from mesh.inference.tokens import Token as Token
    from mesh.inference.tokens import Trace as Trace

_HOMES = {
    "AnswerReceipt": "mesh.client.receipts",
    "AutoDistributedModelForCausalLM": "mesh.client.auto",
    "CheckedReceipt": "mesh.client.receipt_check",
    "DistributedModelForCausalLM": "mesh.client.auto",
    "HttpMeshClient": "mesh.client.http",
    "MeshClient": "mesh.client.client",
    "NoReceipt": "mesh.client.receipts",
    "ReceiptRefused": "mesh.client.receipt_check",
    "RoutingOptions": "mesh.client.route_search",
    "Sampling": "mesh.inference.sampling",
    "SyncHttpMeshClient": "mesh.client.sync",
    "SyncMeshClient": "mesh.client.sync",
    "Token": "mesh.inference.tokens",
    "Trace": "mesh.inference.tokens",
    "check_receipt": "mesh.client.receipt_check",
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
