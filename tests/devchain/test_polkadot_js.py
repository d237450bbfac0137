"""A stranger's client: @polkadot/api from npm against the development chain."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from devchain.config import DevChainConfig
from keys.account import DEVELOPMENT_MNEMONIC
from tests.support.ledger_world import FIRST_SUBNET, multiaddr, serve_in_thread

CLIENTS = Path(__file__).parents[2] / "js"
CLIENT_TIMEOUT_S = 90

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (CLIENTS / "node_modules" / "@polkadot" / "api").is_dir(),
        reason="run `make install-js` for the JavaScript clients",
    ),
]


def test_polkadot_js_reads_signs_submits_and_follows() -> None:
    with serve_in_thread(DevChainConfig(block_seconds=0.2)) as devchain:
        finished = subprocess.run(
            [
                "node",
                "polkadot_client.mjs",
                devchain.url,
                DEVELOPMENT_MNEMONIC,
                f"0x{multiaddr(9).hex()}",
            ],
            cwd=CLIENTS,
            capture_output=True,
            text=True,
            timeout=CLIENT_TIMEOUT_S,
            check=False,
        )
    assert finished.returncode == 0, finished.stderr[-2000:]
    seen = json.loads(finished.stdout)
    assert (seen["epochLength"], seen["activationMode"]) == (20, "Manual")
    assert "balances.Transfer" in seen["transfer"]["events"]
    assert seen["failure"]["error"] == "InvalidHotkeySubnetNodeId"
    for step in ("subnet", "node", "activation"):
        assert seen[step]["error"] is None, step
    assert "network.SubnetNodeActivated" in seen["activation"]["events"]
    assert seen["stored"] == {"id": 1, "nodeClass": "Validator"}
    assert seen["data"]["id"] == f"{FIRST_SUBNET:,}"
    assert seen["entries"] == 1
    assert int(seen["info"]) > 0
    assert "balances.Transfer" in seen["followed"]
    first = seen["heads"][0]
    assert seen["heads"] == [first, first + 1, first + 2]
