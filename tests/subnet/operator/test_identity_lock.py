"""An identity runs once on a machine, whatever the data folders are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from keys.peer import PeerKey
from subnet.errors import ConfigError
from subnet.operator.identity_lock import hold_identity

KEY, OTHER = PeerKey(b"\x51" * 32), PeerKey(b"\x52" * 32)
NETWORK, ELSEWHERE = b"n" * 32, b"e" * 32
HOLD = """
import sys
from keys.peer import PeerKey
from subnet.operator.identity_lock import hold_identity
with hold_identity(PeerKey(b"\\x51" * 32), b"n" * 32):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_identity_in_two_data_folders_is_refused_with_one_fix():
    with hold_identity(KEY, NETWORK):
        with pytest.raises(ConfigError, match=str(KEY.peer_id)) as refusal:
            with hold_identity(KEY, NETWORK):
                pass
        assert "mesh keygen" in refusal.value.hint
    with hold_identity(KEY, NETWORK):
        pass


def test_other_identities_and_other_networks_run_beside_it():
    with hold_identity(KEY, NETWORK), hold_identity(OTHER, NETWORK), hold_identity(KEY, ELSEWHERE):
        pass


def test_a_killed_process_holds_no_identity():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="another process"):
            with hold_identity(KEY, NETWORK):
                pass
    finally:
        process.kill()
        process.communicate()
    with hold_identity(KEY, NETWORK):
        pass
