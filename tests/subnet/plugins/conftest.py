"""Plug-ins that are installed for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plugins import Install, make_installer


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    return make_installer(tmp_path, monkeypatch)
