"""The example subnet as its author runs it: installed by pip, with its own scorer, under faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import MESH, Command, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "fewer_hops"
RUN_S = 360.0
KILLED = 4
LINE = (
    *("localnet", "--hosters", "3", "--validators", "1", "--epochs", "3", "--json"),
    *("--scorer", "fewer-hops", "--probe", "fewer-hops"),
    *("--fault", f"kill:{KILLED}@score", "--fault", "pause:3@audit"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which pip has installed the example."""
    place = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(place), str(EXAMPLE)], check=True)
    return {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fork")


@pytest.fixture(scope="module")
def run(
    installed: dict[str, str], kept: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Command]:
    """The run of the example's network, finished."""
    line = [*MESH, *LINE, "--keep", str(kept / "kept")]
    with run_command(line, tmp_path_factory.mktemp("localnet"), installed) as command:
        code = command.wait(timeout_s=RUN_S)
        assert code == 0, command.stderr[-8000:]
        yield command


def read_rows(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.stdout.splitlines()]


def test_the_node_is_killed_in_its_phase_and_the_others_go_on(run: Command) -> None:
    assert f"fault kill:{KILLED}@score: node {KILLED} is killed" in run.stderr
    assert "validator-1 was ended by SIGKILL, as --fault asked" in run.stderr
    assert run.stderr.index("node 3 is paused") < run.stderr.index("node 3 goes on")
    assert [row["epoch"] - read_rows(run)[0]["epoch"] for row in read_rows(run)] == [0, 1, 2]
    run.wait_until_gone()


def test_the_scorer_pays_long_ranges_more_and_the_others_attest_it(run: Command) -> None:
    for row in read_rows(run):
        if "lost" in row:
            assert row["elected"] in (3, KILLED)
            continue
        scores = {hoster["subnet_node_id"]: int(hoster["score"]) for hoster in row["hosters"]}
        # Of the built-in rule the ratio is 11 to 5.
        if row["epoch"] == read_rows(run)[0]["epoch"] and scores[3]:
            assert scores[1] / scores[3] == pytest.approx(11 / 5 * 8 / 5, rel=1e-3)
        attested = {node["subnet_node_id"] for node in row["hosters"] if node["attested"]}
        assert attested >= {1, 2}


def test_why_computes_the_score_again_with_the_plug_in(
    run: Command, kept: Path, installed: dict[str, str]
) -> None:
    folder = str(kept / "kept" / "hoster-1")
    *rows, last = read_rows(run)
    # A lost epoch has no proposal to wait for: the network may end before its nodes have judged it.
    for row in [*rows, *([] if "lost" in last else [last])]:
        line = [*MESH, "why", str(row["epoch"]), "1", "--json", "--data-dir", folder]
        told = subprocess.run(line, capture_output=True, env=os.environ | installed, check=False)
        assert told.returncode == 0, told.stderr
        # A node under a fault that is elected proposes nothing.
        verdict = "no_proposal" if "lost" in row else "equal"
        assert json.loads(told.stdout)["verdict"] == verdict, told.stdout[:500]


def test_without_the_package_a_node_of_the_subnet_says_so(kept: Path, run: Command) -> None:
    line = [*MESH, "why", "last", "1", "--data-dir", str(kept / "kept" / "hoster-1")]
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    told = subprocess.run(
        line, capture_output=True, text=True, env=bare | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert told.returncode == 1
    assert "scorer fewer-hops: the subnet's manifest names version 1.0" in told.stderr
    assert "hint: install the version" in told.stderr
