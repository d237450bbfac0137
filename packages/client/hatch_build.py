"""Collects the node's modules that an HTTP client needs, so that there is one copy of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = (
    "mesh/__init__.py",
    "mesh/errors.py",
    "mesh/py.typed",
    "mesh/client/__init__.py",
    "mesh/client/bridge.py",
    "mesh/client/event_stream.py",
    "mesh/client/http.py",
    "mesh/client/receipts.py",
    "mesh/client/sync.py",
    "mesh/inference/__init__.py",
    "mesh/inference/grammar.py",
    "mesh/inference/sampling.py",
    "mesh/inference/tokens.py",
)
CHECKING = (
    "keys/__init__.py",
    "keys/errors.py",
    "keys/peer.py",
    "keys/py.typed",
    "mesh/plugins.py",
    "mesh/token_bucket.py",
    "mesh/client/receipt_check.py",
    "mesh/inference/receipt_statement.py",
    "mesh/inference/receipt_wire.py",
    "mesh/inference/refusals.py",
    "mesh/inference/shaped_wire.py",
    "mesh/inference/tickets.py",
    "mesh/inference/wire.py",
    "mesh/model/__init__.py",
    "mesh/model/config.py",
    "mesh/model/families/__init__.py",
    "mesh/model/families/llama.py",
    "mesh/model/families/mistral.py",
    "mesh/model/families/phi3.py",
    "mesh/model/families/qwen2.py",
    "mesh/model/families/qwen3.py",
    "mesh/model/families/qwen3_moe.py",
    "mesh/model/family.py",
    "mesh/model/fields.py",
    "mesh/model/rope.py",
    "mesh/p2p/__init__.py",
    "mesh/p2p/interface.py",
    "mesh/p2p/rpc_guard.py",
    "mesh/p2p/rpc_wire.py",
    "mesh/p2p/traffic.py",
    "mesh/routing/__init__.py",
    "mesh/routing/hop.py",
)
"""What checks receipts, with the extra ``receipts``; a test says when one is missing."""
COPIES = "src"


class ModulesHook(BuildHookInterface):
    """Takes the modules from the repository, or from the copies in a source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        copies = Path(self.root) / COPIES
        source = copies if copies.is_dir() else Path(self.root).parent.parent
        prefix = f"{COPIES}/" if self.target_name == "sdist" else ""
        for module in MODULES + CHECKING:
            build_data["force_include"][str(source / module)] = prefix + module
