"""``mesh plan``: what would be served here, from config.json alone."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.errors import ManifestMismatch
from mesh.model.capacity import ServingFormat, compute_memory, get_runtime_bytes
from mesh.model.config import LayerSpan, load_config
from mesh.model.speed import estimate_tokens_per_second, measure_bandwidth
from mesh.p2p.config import HostConfig
from mesh.p2p.hivemind_host import HivemindHost
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, seal_heartbeat
from mesh.routing.info import NetworkInfo
from mesh.routing.placement import PlacedServer
from subnet.cli.mesh import app
from subnet.errors import ConfigError, UsageError
from subnet.hosting import plan as plan_module
from subnet.hosting.plan import make_plan, parse_size

CONFIG = load_config(shipped_model_path())
FORM = ServingFormat("bfloat16")


@pytest.fixture
def bare_folder(tmp_path):
    """A model of which only config.json is there."""
    shutil.copy(shipped_model_path() / "config.json", tmp_path / "config.json")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_plan_needs_no_weights(bare_folder):
    found = run(bare_folder, "--bandwidth", 10, "--memory", "8GiB")
    assert found.exit_code == 0, found.output
    assert "blocks 0:8 on cpu (8 would fit)" in found.output
    assert "estimate" in found.output


def test_json_says_what_the_arithmetic_says(bare_folder):
    found = run(
        bare_folder,
        *("--bandwidth", 10, "--memory", "8GiB", "--attn-cache-tokens", 100),
        *("--num-blocks", 3, "--json", "--torch-dtype", "float32"),
    )
    described = json.loads(found.output)
    need = compute_memory(CONFIG, ServingFormat("float32"), LayerSpan(0, 3), cache_tokens=100)
    assert described["blocks"] == [0, 3]
    assert described["weights_bytes"] == need.weights
    assert described["cache_bytes"] == need.cache
    assert described["workspace_bytes"] == need.workspace
    assert described["estimated_tokens_per_second"] > 0


def test_fewer_bits_take_less_and_run_faster():
    plans = [
        make_plan(CONFIG, form, memory_bytes=1 << 30, cache_tokens=64, bytes_per_second=1e8)
        for form in (FORM, ServingFormat("bfloat16", "int8"), ServingFormat("bfloat16", "int4"))
    ]
    assert plans[2].need.weights < plans[1].need.weights < plans[0].need.weights
    speeds = [plan.tokens_per_second for plan in plans]
    assert speeds[2] > speeds[1] > speeds[0]


def test_twice_the_bandwidth_is_nearly_twice_as_fast():
    slow, fast = (
        estimate_tokens_per_second(CONFIG, FORM, LayerSpan(0, 8), bytes_per_second=speed)
        for speed in (1e7, 2e7)
    )
    assert 1.9 < fast / slow < 2.0


def test_the_swarm_decides_where(bare_folder, monkeypatch):
    peers = [PeerKey(bytes([number]) * 32).peer_id for number in (1, 2)]
    servers = [
        PlacedServer(peers[0], LayerSpan(0, 3), 1000),
        PlacedServer(peers[1], LayerSpan(5, 8), 1000),
    ]

    async def fetch(initial_peers, config, *, network_id):
        assert initial_peers == ("/ip4/10.0.0.1/tcp/1/p2p/x",) and config == CONFIG
        assert network_id is None
        return servers

    monkeypatch.setattr(plan_module, "fetch_swarm", fetch)
    found = run(
        bare_folder,
        *("--bandwidth", 10, "--memory", "8GiB", "--num-blocks", 2, "--json"),
        *("--initial-peers", "/ip4/10.0.0.1/tcp/1/p2p/x"),
    )
    described = json.loads(found.output)
    assert described["blocks"] == [3, 5]
    assert described["uncovered_blocks"] == [3, 4]


def test_a_device_too_small_is_said_with_what_helps():
    with pytest.raises(ConfigError, match="not one block fits") as caught:
        make_plan(CONFIG, FORM, memory_bytes=1000, cache_tokens=64, bytes_per_second=1e9)
    assert "--attn-cache-tokens" in caught.value.hint


def test_memory_is_the_devices_and_the_process_needs_its_part(bare_folder):
    room = compute_memory(CONFIG, FORM, LayerSpan(0, 8), cache_tokens=64).total
    total = room + get_runtime_bytes("cpu")
    fits = run(
        bare_folder, "--bandwidth", 1, "--memory", total, "--attn-cache-tokens", 64, "--json"
    )
    assert json.loads(fits.output)["fitting_blocks"] == 8
    less = run(
        bare_folder, "--bandwidth", 1, "--memory", total - 1, "--attn-cache-tokens", 64, "--json"
    )
    assert json.loads(less.output)["fitting_blocks"] == 7


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 << 30), ("8GB", 8 * 10**9), ("1.5 gib", 3 << 29), ("1024", 1024)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text, option="--memory") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1e9", "24 apples", "1" * 40])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="--memory"):
        parse_size(text, option="--memory")


def test_bandwidth_is_measured():
    assert measure_bandwidth("cpu", threads=1) > 1e8


async def test_a_running_peer_tells_of_its_swarm():
    """Through real hosts: one address is enough."""
    key, other = PeerKey(b"\7" * 32), PeerKey(b"\x08" * 32)
    network_id = b"p" * 32
    info = NetworkInfo(network_id, bytes(32), "mesh-tiny", CONFIG.num_layers, 2048, 259, "test")
    heartbeat = ServerInfo(
        role=ServerRole.HOSTER,
        state=ServerState.ONLINE,
        span=LayerSpan(2, 5),
        throughput=77,
        free_cache_tokens=1,
        dtype="int8",
        software="test",
        addresses=(),
    )
    async with HivemindHost.open(HostConfig(key=key, network_id=network_id)) as host:
        directory = Directory(host, network_id=network_id)
        directory.serve(lambda: info)
        expires_at = int(time.time()) // 30 * 30 + 60
        envelope = seal_heartbeat(
            other, heartbeat, network_id=network_id, node_id=2, expires_at=expires_at
        )
        directory.add(envelope.to_bytes())
        addresses = await host.list_addresses()
        found = await plan_module.fetch_swarm(addresses, CONFIG)
        assert found == [PlacedServer(other.peer_id, LayerSpan(2, 5), 77)]
        with pytest.raises(ManifestMismatch, match="8 blocks"):
            await plan_module.fetch_swarm(addresses, replace(CONFIG, num_layers=9))
