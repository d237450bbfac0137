"""What OpenMP is told, as in a process that nobody has told anything."""

from __future__ import annotations

import pytest

from mesh.inference import threads
from mesh.inference.threads import PASSIVE_WAIT_ENVIRONMENT


def forget_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables until the test ends, and what this process has set itself."""
    for name in PASSIVE_WAIT_ENVIRONMENT:
        monkeypatch.setenv(name, "")  # Otherwise one that a test sets would stay.
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_set_here", set())
