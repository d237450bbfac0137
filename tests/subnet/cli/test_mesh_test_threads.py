"""Which nodes let their threads look for work: those whose engine may take fewer of them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mesh.inference import threads
from mesh.inference.threads import BRIEF_SPINS
from subnet.cli.mesh_test_command import run_node_command
from tests.support.openmp import forget_waiting

VALUES = {"model": "m", "identity_path": Path("peer_id.key"), "new_swarm": True}


@pytest.fixture
def start(monkeypatch):
    """Run the command up to the node; return how often its threads look for work."""
    forget_waiting(monkeypatch)

    def run(stored_dtype, *, hoster=True, **options):
        seen = []

        async def prepare(config):
            return SimpleNamespace(notices=(), model=SimpleNamespace(stored_dtype=stored_dtype))

        async def run_node(prepared, *, supervisor):
            seen.append(os.environ["GOMP_SPINCOUNT"])

        monkeypatch.setattr("subnet.operator.preflight.prepare", prepare)
        monkeypatch.setattr("subnet.node.run.run_node", run_node)
        threads.wait_passively()
        run_node_command(VALUES | options, hoster=hoster, validator=not hoster, block_indices=None)
        return seen

    return run


@pytest.mark.parametrize(
    ("stored", "options"),
    [("bfloat16", {}), ("bfloat16", {"threads": 2}), ("float32", {"torch_dtype": "bfloat16"})],
)
def test_a_hoster_of_bfloat16_looks_briefly(start, stored, options):
    assert start(stored, **options) == [BRIEF_SPINS]


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        ("float32", {}),
        ("bfloat16", {"torch_dtype": "float32"}),
        ("bfloat16", {"threads": 1}),
        ("bfloat16", {"device": "cuda"}),
        ("bfloat16", {"hoster": False}),
    ],
)
def test_other_nodes_sleep_at_once(start, stored, options):
    assert start(stored, **options) == ["0"]
