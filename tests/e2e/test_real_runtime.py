"""A local network on the real runtime: registered, elected, proposed and attested there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.assets import default_question
from tests.support import chopsticks
from tests.support.commands import MESH, run_command

# Two epochs and the one that proposes the second are sixty blocks of six seconds, after the
# set-up; a busy machine is slower.
RUN_S = 1500.0
EPOCHS = 2

pytestmark = [pytest.mark.chain, pytest.mark.e2e, pytest.mark.timeout(RUN_S + 300)]


def test_a_local_network_on_the_real_runtime_scores_two_epochs(tmp_path: Path) -> None:
    missing = chopsticks.find_missing()
    if missing is not None:
        pytest.skip(missing)
    # A chain of its own: the network drives its blocks, which other tests would notice.
    with chopsticks.run_chopsticks(tmp_path) as url:
        line = [*MESH, "localnet", "--chain", url, "--epochs", str(EPOCHS), "--json"]
        with run_command(line, tmp_path / "localnet") as command:
            code = command.wait(timeout_s=RUN_S)
            assert code == 0, command.stderr[-8000:]
            assert f"{default_question().answer}\n" in command.stderr
            rows = [json.loads(text) for text in command.stdout.splitlines()]
            command.wait_until_gone()
    assert [row["epoch"] - rows[0]["epoch"] for row in rows] == list(range(EPOCHS))
    for row in rows:
        nodes = row["hosters"] + row["validators"]
        assert len(nodes) == 6
        assert all(node["attested"] is True for node in nodes)
        assert row["attestation_ratio"] == 1.0
        assert all(int(hoster["score"]) > 0 for hoster in row["hosters"])
    assert all(int(node["score"]) > 0 for node in rows[1]["validators"])
