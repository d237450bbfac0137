"""Plug-ins that are installed for a test: a package and its entry points on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.model import families
from mesh.plugins import compute_digest

Install = Callable[..., None]


def make_installer(place: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what installs a package of one module: its code, its entry points, its version."""
    monkeypatch.syspath_prepend(str(place))

    def write(package: str, code: str, *, version: str = "1.0", **points: str) -> None:
        (place / f"{package}.py").write_text(code, encoding="utf-8")
        folder = place / f"{package}-1.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8"
        )
        lines = [f"[mesh.{group}]\n{line}\n" for group, line in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        sys.modules.pop(package, None)
        importlib.invalidate_caches()
        compute_digest.cache_clear()
        families._find_plugged.cache_clear()

    return write
