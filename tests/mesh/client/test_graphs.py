"""Answers over real sessions are the same bits where decode steps go through fixed shapes."""

from __future__ import annotations

import pytest

from mesh.inference import engine as engine_module
from mesh.model.step_graphs import StepGraphs
from tests.mesh.client.test_determinism import (
    test_one_range_and_three_alone_and_in_a_crowd_give_the_same_bits,
    test_other_families_give_the_same_bits_in_a_crowd,
    test_the_default_engine_gives_the_same_tokens_in_a_crowd,
)

# Collected here once more, with graphs; on a CPU a replay is the step kernel by kernel.
__all__ = [
    "test_one_range_and_three_alone_and_in_a_crowd_give_the_same_bits",
    "test_other_families_give_the_same_bits_in_a_crowd",
    "test_the_default_engine_gives_the_same_tokens_in_a_crowd",
]


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Let every engine compute decode steps over fixed shapes."""
    open_runner, launch = engine_module.open_runner, StepGraphs.launch
    launched = []

    def open_with_graphs(*arguments, **options):
        return open_runner(*arguments, **{**options, "use_graphs": True})

    def note(self, token_ids, positions, tables, hidden=None):
        launched.append(len(positions))
        return launch(self, token_ids, positions, tables, hidden)

    monkeypatch.setattr(engine_module, "open_runner", open_with_graphs)
    monkeypatch.setattr(StepGraphs, "launch", note)
    yield
    # Alone and in a crowd.
    assert min(launched) == 1 and max(launched) > 1
