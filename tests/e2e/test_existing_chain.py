"""``mesh localnet --chain`` on a development chain that was there before and goes on by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import MESH, run_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

RUN_S = 360.0
SMALL = ("--hosters", "2", "--validators", "1", "--epochs", "1")


def test_a_chain_that_makes_its_own_blocks_is_followed_and_outlives_the_network(
    tmp_path: Path,
) -> None:
    with run_command([*MESH, "devchain", "--port", "0", "--block_seconds", "1"], tmp_path) as chain:
        chain.wait_for("ws://")
        url = chain.stdout.strip()
        line = [*MESH, "localnet", "--chain", url, "--no-drive", *SMALL, "--json"]
        with run_command([*line, "--block-seconds", "1"], tmp_path) as command:
            code = command.wait(timeout_s=RUN_S)
            assert code == 0, command.stderr[-8000:]
            (row,) = [json.loads(text) for text in command.stdout.splitlines()]
            assert row["attestation_ratio"] == 1.0
            command.wait_until_gone()
        show = [*MESH, "chain", "show", "--subnet", "128001", "--chain", url, "--json"]
        with run_command(show, tmp_path) as shown:
            assert shown.wait() == 0, shown.stderr
            subnet = json.loads(shown.stdout)["subnet"]
        assert subnet["name"].startswith("localnet-") and subnet["state"] == "Active"
        assert chain.process.poll() is None
