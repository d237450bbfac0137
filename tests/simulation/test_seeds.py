"""100 seeds of 20 epochs: whatever happens, the invariants hold; a failure says how to replay it.

The seeds are shared out over the processors, in processes of their own that step back for what
is timed by a clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from subnet.simulation.scenario import FaultFamily

NUM_SEEDS = int(os.environ.get("MESH_SIMULATION_SEEDS", "100"))
"""Fewer for a quick look, more for a night; what the runs must have met is asked from 100 on."""
NUM_EPOCHS = 20
MAX_PROCESSES = 8
NICE = ("nice", "-n", "5")
EFFECTS = {
    *("edge", "replica-lies", "forks", "draws-replaced", "late-blocks", "torn-writes"),
    *("disk-errors", "queued-bytes", "dropped-messages", "joined", "promoted", "left", "removed"),
    "lies-attested",
}
"""What faults and lies must have done in some run."""
ROOT = Path(__file__).parents[2]


def run_simulation(*arguments: str, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NICE, sys.executable, "-m", "tests.simulation", "--json", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run_share(index: int, num_processes: int) -> subprocess.CompletedProcess[str]:
    return run_simulation(
        *("--seed", str(index), "--stride", str(num_processes)),
        *("--seeds", str(len(range(index, NUM_SEEDS, num_processes)))),
        *("--epochs", str(NUM_EPOCHS)),
    )


@pytest.mark.timeout(3600)
def test_100_seeds_of_20_epochs_keep_every_invariant() -> None:
    num_processes = max(1, min(MAX_PROCESSES, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(num_processes) as pool:
        shares = list(pool.map(lambda index: run_share(index, num_processes), range(num_processes)))
    failures = "\n".join(share.stderr for share in shares if share.returncode)
    assert not failures, failures
    results = [json.loads(line) for share in shares for line in share.stdout.splitlines()]
    assert len(results) == NUM_SEEDS
    if NUM_SEEDS < 100:
        return
    # The runs were worth it: every family of faults and every lie occurred, nodes died, and
    # most epochs were attested all the same.
    assert {name for result in results for name in result["faults"]} == {
        f.value for f in FaultFamily
    }
    effects = sum((Counter(result["effects"]) for result in results), Counter[str]())
    assert effects.keys() == EFFECTS, effects
    assert len({lie for result in results for lie in result["lies"]}) >= 12
    assert {result["epoch_length"] for result in results} == {20, 50, 100}
    assert sum(result["coldkeys"] < 7 for result in results) > 20
    assert sum(result["deaths"] for result in results) > 250
    assert sum(result["attested"] for result in results) > 0.8 * NUM_SEEDS * NUM_EPOCHS


def test_the_same_seed_gives_the_same_trace() -> None:
    """Also where Python hashes, and therefore orders sets, in another way."""
    arguments = ("--seed", "3", "--epochs", "6", "--faults", "crash", "byzantine", "loss", "chain")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_simulation, *arguments, hash_seed=seed) for seed in (1, 2)]
    first, second = (run.result() for run in runs)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout)


def test_another_seed_gives_another_trace() -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(run_simulation, "--seed", str(seed), "--epochs", "3") for seed in (1, 2)
        ]
    first, second = (json.loads(run.result().stdout) for run in runs)
    assert first["trace"] != second["trace"]
