"""benchmarks/gpu.py says that there is no card, and can be tried without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run_script(*options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=170
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_so_in_a_sentence():
    ended = run_script()
    assert ended.returncode == 1 and not ended.stdout
    assert ended.stderr.splitlines() == [
        "error: there is no CUDA device here; --device cpu --tiny tries the script without one"
    ]


def test_a_cpu_is_measured_with_a_tiny_shape_only():
    ended = run_script("--device", "cpu")
    assert ended.returncode == 2 and "--tiny" in ended.stderr


def test_every_figure_of_one_process_is_measured():
    ended = run_script("--device", "cpu", "--tiny", "--json", "--skip-p2p")
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    absent = {name for name, value in figures.items() if value is None}
    assert absent == {name for name in figures if name.startswith("p2p_")} != set()
    numbers = {k: v for k, v in figures.items() if k not in ("device", "torch", *absent)}
    assert set(numbers) == {
        "bandwidth_gb_s",
        "bound_1",
        "transformers_1",
        "sessions_1",
        "sessions_8",
        "sessions_32",
        "sessions_64",
        "first_token_1024_ms",
    }
    assert all(value > 0 for value in numbers.values())
    assert "(--skip-p2p)" in ended.stderr
