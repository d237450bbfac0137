"""A signal ends a process that still starts, and the log says which step it was at."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, sys
from pathlib import Path
from consensus.types import Role, SubnetId, SubnetNodeId
from keys.peer import PeerKey
from mesh.model.config import load_config
from mesh.model.files import resolve_known_model
from subnet.bootstrap import BootstrapConfig, run_bootstrap
from subnet.node.run import run_node
from subnet.operator.config import NodeConfig
from subnet.operator.logs import LogOptions, configure_logs
from subnet.operator.preflight import PreparedNode

what, url, data_dir = sys.argv[1], sys.argv[2], Path(sys.argv[3])
configure_logs(LogOptions(as_json=True))
key = PeerKey(bytes([7]) * 32)
if what == "node":
    folder = resolve_known_model("mesh-tiny")
    config = NodeConfig(
        model="mesh-tiny", role=Role.VALIDATOR, identity_path=data_dir, chain_url=url
    )
    prepared = PreparedNode(
        config=config, key=key, hotkey=None, subnet_id=SubnetId(1), node_id=SubnetNodeId(1),
        folder=folder, model=load_config(folder.path), layers=None, data_dir=data_dir, notices=(),
    )
    asyncio.run(run_node(prepared))
else:
    config = BootstrapConfig(key, url, "mesh", (), (), (), data_dir)
    asyncio.run(run_bootstrap(config, on_ready=print))
"""
STOP_TIMEOUT_S = 10
"""Far less than the 40 s after which a call to a silent chain gives up."""


@pytest.fixture
def silent_chain() -> Iterator[str]:
    """An endpoint that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("what", "number"),
    [("node", signal.SIGTERM), ("bootstrap", signal.SIGINT)],
)
def test_a_signal_ends_a_process_that_still_starts(
    what: str, number: signal.Signals, silent_chain: str, tmp_path: Path
) -> None:
    line = [sys.executable, "-c", SCRIPT, what, silent_chain, str(tmp_path / "data")]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        assert first["event"] == "connecting to the chain"
        assert first["url"] == silent_chain
        process.send_signal(number)
        try:
            assert process.wait(timeout=STOP_TIMEOUT_S) == 0
        finally:
            process.kill()
        rest = process.stderr.read()
    assert "stopping" in rest and "Traceback" not in rest


DRAINING = """
import asyncio, os, signal
from subnet.operator.interrupts import Service
from subnet.operator.supervisor import Supervisor

async def drain_for_ever():
    print("draining", flush=True)
    await asyncio.Event().wait()

async def work(service):
    service.note_started(drain_for_ever)
    print("started", flush=True)
    await asyncio.Event().wait()

async def main():
    service = Service(Supervisor.from_environment(os.environ))
    await service.run(work(service))

asyncio.run(main())
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_that_still_drains_at_once(
    second: signal.Signals, tmp_path: Path
) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(STOP_TIMEOUT_S)
        environment = os.environ | {"NOTIFY_SOCKET": str(address)}
        line = [sys.executable, "-c", DRAINING]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n"
                process.send_signal(signal.SIGTERM)
                while "draining" not in process.stdout.readline():
                    pass
                while listener.recv(4096) != b"STOPPING=1":
                    pass
                process.send_signal(second)
                assert process.wait(timeout=STOP_TIMEOUT_S) == 128 + second
            finally:
                process.kill()
