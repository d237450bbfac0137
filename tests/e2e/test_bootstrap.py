"""``mesh bootstrap``: it relays while no subnet names it, and serves the one that does."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.identity_file import create_identity_file
from subnet.metrics.table import Process
from subnet.operator.status import read_statuses
from tests.support.chain_rigs import OWNER, WireRig, make_subnet
from tests.support.commands import MESH, run_command, wait_until
from tests.support.metrics import (
    list_names,
    list_promised,
    read_metrics_url,
    read_samples,
    scrape,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
async def devchain() -> AsyncIterator[DevChain]:
    async with DevChain.open(DevChainConfig(mode=BlockMode.INSTANT, seed=b"boot")) as running:
        yield running


async def test_it_relays_until_a_subnet_names_it_and_serves_that_one(
    devchain: DevChain, tmp_path: Path
) -> None:
    identity = tmp_path / "bootstrap_peer_id.key"
    peer_id = create_identity_file(identity)
    data_dir = tmp_path / "data"
    line = [*MESH, "bootstrap", "--identity_path", str(identity), "--data_dir", str(data_dir)]
    line += ["--host_maddrs", "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic"]
    line += ["--metrics-port", "0"]
    with run_command([*line, "--chain", devchain.url], tmp_path) as command:
        await asyncio.to_thread(command.wait_for, "relaying only")
        assert not list(data_dir.glob("*/journal.sqlite"))
        (relaying,) = read_statuses(data_dir)
        assert (relaying.peer_id, relaying.subnet_id) == (str(peer_id), None)
        url = read_metrics_url(command.stderr)
        status, text = await asyncio.to_thread(scrape, url, "/readyz")
        assert (status, json.loads(text)["missing"]) == (503, ["chain"])
        addresses = command.stdout.split()
        assert {address.split("/")[3] for address in addresses} == {"tcp", "udp"}
        assert all(address.endswith(f"/p2p/{peer_id}") for address in addresses)

        async with WireRig.connect(devchain.url) as rig:
            bootnodes = {str(peer_id): "/ip4/127.0.0.1/tcp/31330"}
            await rig.register_subnet(make_subnet("boot", bootnodes=bootnodes), OWNER)
        await asyncio.to_thread(command.wait_for, '"event": "serving"')
        (journal,) = data_dir.glob("*-bootstrap/journal.sqlite")
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600
        (serving,) = read_statuses(data_dir)
        assert serving.subnet_id is not None
        serving.check(now_s=serving.written_at, max_age_s=1)

        # A subnet that is not activated has no epochs.
        without_epochs = list_promised(Process.BOOTSTRAP) - {
            "mesh_epoch",
            "mesh_phase",
            "mesh_phase_deadline_seconds",
        }

        def shows_everything() -> bool:
            return list_names(read_samples(url)) == without_epochs

        await asyncio.to_thread(wait_until, shows_everything, "every metric of the bootstrap")

        command.send(signal.SIGTERM)
        assert await asyncio.to_thread(command.wait) == 0
        assert "Traceback" not in command.stderr
        await asyncio.to_thread(command.wait_until_gone)
        assert list(command.temporary.iterdir()) == []


async def test_without_a_chain_it_relays(tmp_path: Path) -> None:
    identity = tmp_path / "bootstrap_peer_id.key"
    create_identity_file(identity)
    line = [*MESH, "bootstrap", "--identity_path", str(identity), "--chain", "ws://127.0.0.1:1"]
    line += ["--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--data-dir", str(tmp_path / "data")]
    with run_command(line, tmp_path) as command:
        await asyncio.to_thread(command.wait_for, "relaying only")
        assert "chain unavailable" in command.stderr
        assert "/ip4/127.0.0.1/tcp/" in command.stdout
        command.press_ctrl_c()
        assert await asyncio.to_thread(command.wait) == 0
        await asyncio.to_thread(command.wait_until_gone)
