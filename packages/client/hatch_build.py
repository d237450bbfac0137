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
    "mesh/client/event_stream.py",
    "mesh/client/http.py",
    "mesh/inference/__init__.py",
    "mesh/inference/grammar.py",
    "mesh/inference/sampling.py",
    "mesh/inference/tokens.py",
)
COPIES = "src"


class ModulesHook(BuildHookInterface):
    """Takes the modules from the repository, or from the copies in a source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        copies = Path(self.root) / COPIES
        source = copies if copies.is_dir() else Path(self.root).parent.parent
        prefix = f"{COPIES}/" if self.target_name == "sdist" else ""
        for module in MODULES:
            build_data["force_include"][str(source / module)] = prefix + module
