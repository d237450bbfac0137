"""A hoster behind a router's NAT serves a session through the relay of a bootstrap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_NAMESPACES = os.geteuid() == 0 and all(map(shutil.which, ("ip", "nft")))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_NAMESPACES, reason="needs root, and the commands ip and nft"),
]


def test_a_hoster_behind_a_router_serves_a_session_through_the_relay() -> None:
    command = [sys.executable, "benchmarks/behind_nat.py", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout)
    assert seen["tokens"] == 32
    assert seen["can be dialled directly"] is False
    assert seen["peers over a relay"] == 1
    (announced,) = seen["announced"]
    assert "/p2p-circuit/" in announced, "the address of the home is not published"
