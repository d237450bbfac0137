"""Puts the commit into what is built, for ``--version`` where there is no git."""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Adds ``subnet/COMMIT``: MESH_COMMIT of the environment, else what git says, if anything."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        package = Path(self.root) / "subnet"
        if version == "editable" or (package / "COMMIT").exists():
            # A checkout asks git; a source distribution has the file already.
            return
        read_commit = runpy.run_path(str(package / "version.py"))["read_commit"]
        self._file = Path(tempfile.mkdtemp()) / "COMMIT"
        self._file.write_text(os.environ.get("MESH_COMMIT") or read_commit(package), "utf-8")
        build_data["force_include"][str(self._file)] = "subnet/COMMIT"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.unlink()
            file.parent.rmdir()
