"""The command lines that operators already have, word by word, against a development chain."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mesh.assets import shipped_model_path
from mesh.model.config import parse_config
from mesh.model.tensors import list_range_tensors
from subnet.chain.substrate import SubstrateChain
from subnet.localnet.node_plan import plan_nodes
from subnet.metrics.table import Process
from tests.support.commands import MESH, MESH_TEST, Command, run_command, wait_until
from tests.support.metrics import (
    get_value,
    list_names,
    list_promised,
    read_metrics_url,
    read_samples,
    scrape,
)
from tests.support.networks import Network, NodeFiles, register_network

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
COMMIT = "fe8a4ea1ffedaf415f4da2f062534de366a451e6"
NUM_BLOCKS = 4
WIDTH, INNER, VOCABULARY, KEYS = 64, 128, 1024, 16
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPES = {
    "embed_tokens": (VOCABULARY, WIDTH),
    "lm_head": (VOCABULARY, WIDTH),
    "q_proj": (WIDTH, WIDTH),
    "o_proj": (WIDTH, WIDTH),
    "k_proj": (KEYS, WIDTH),
    "v_proj": (KEYS, WIDTH),
    "gate_proj": (INNER, WIDTH),
    "up_proj": (INNER, WIDTH),
    "down_proj": (WIDTH, INNER),
}
HOSTER_LINE = (
    "mesh-test TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host_maddrs /ip4/0.0.0.0/tcp/31330 "
    "/ip4/0.0.0.0/udp/31330/quic --announce_maddrs /ip4/{IP}/tcp/{PORT} /ip4/{IP}/udp/{PORT}/quic "
    "--new_swarm --hoster --identity_path {PRIVATE_KEY_PATH} --subnet_id {SUBNET_ID} "
    "--subnet_node_id {SUBNET_NODE_ID}"
)
VALIDATOR_LINE = (
    "mesh-test TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host_maddrs /ip4/0.0.0.0/tcp/31331 "
    "/ip4/0.0.0.0/udp/31331/quic --announce_maddrs /ip4/{IP}/tcp/{PORT} /ip4/{IP}/udp/{PORT}/quic "
    "--initial_peers {ADDR} --validator --identity_path {PRIVATE_KEY_PATH} "
    "--subnet_id {SUBNET_ID} --subnet_node_id {SUBNET_NODE_ID}"
)
SERVING = '"event": "serving"'
NOTICE = "this node serves, commits and reveals, but neither proposes nor attests"


def get_shape(name: str) -> tuple[int, ...]:
    """Return the shape of one tensor of CONFIG."""
    if "norm" in name:
        return (WIDTH,)
    return next(shape for part, shape in SHAPES.items() if part in name)


def create_model_cache(home: Path) -> Path:
    """Write a model of TinyLlama's name as huggingface_hub keeps it: blobs, snapshots, refs."""
    made = home / "made"
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(CONFIG))
    numbers = np.random.default_rng(11)
    tensors = {
        name: numbers.normal(scale=0.05, size=get_shape(name)).astype(np.float32)
        for name in list_range_tensors(parse_config(CONFIG), 0, NUM_BLOCKS)
    }
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((shipped_model_path() / name).read_bytes())
    repository = home / "hub" / f"models--{MODEL.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(made.iterdir())):
        blob = blobs / f"{number:040x}"
        path.rename(blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@dataclass(frozen=True)
class Place:
    """A running chain, a registered subnet, and the environment that nodes run in."""

    url: str
    network: Network
    environment: dict[str, str]

    @property
    def hoster(self) -> NodeFiles:
        return self.network.nodes[0]

    @property
    def validator(self) -> NodeFiles:
        return self.network.nodes[2]

    def get_environment(self, node: NodeFiles) -> dict[str, str]:
        return {**self.environment, "MESH_HOME": str(node.data_dir)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("commands")
    create_model_cache(directory / "hf")
    environment = {"HF_HOME": str(directory / "hf"), "HF_HUB_OFFLINE": "1"}
    with run_command([*MESH, "manifest", MODEL], directory, environment) as manifest:
        assert manifest.wait(timeout_s=180) == 0, manifest.stderr
        digest = bytes.fromhex(manifest.stdout.strip())
    line = [*MESH, "devchain", "--port", "0", "--block_mode", "instant"]
    with run_command(line, directory) as devchain:
        devchain.wait_for("ws://")
        url = devchain.stdout.strip()
        network = asyncio.run(_register(url, directory, digest))
        yield Place(url, network, environment | {"MESH_CHAIN": url})


async def _register(url: str, directory: Path, digest: bytes) -> Network:
    plan = plan_nodes(hosters=2, validators=1, num_layers=NUM_BLOCKS)
    async with SubstrateChain.open(url) as chain:
        return await register_network(chain, plan, directory, manifest_hash=digest)


async def _build_blocks(url: str, count: int) -> None:
    async with SubstrateChain.open(url) as chain:
        await chain.query(lambda session: session.rpc("dev_newBlock", {"count": count}))


def find_port(wanted: int) -> int:
    """Return ``wanted`` if it is free for TCP and UDP, another port if not."""
    for port in (wanted, *range(wanted + 1000, wanted + 1100)):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            continue
        return port
    raise AssertionError("no free port")


def fill(line: str, place: Place, node: NodeFiles, *, usual: int, address: str = "") -> list[str]:
    """Put this machine's values into the braces; swap a port only where it is taken."""
    port = find_port(usual)
    filled = line.replace(str(usual), str(port)).format(
        IP="127.0.0.1",
        PORT=port,
        PRIVATE_KEY_PATH=node.identity,
        SUBNET_ID=place.network.subnet_id,
        SUBNET_NODE_ID=node.node_id,
        ADDR=address,
    )
    program, *arguments = shlex.split(filled)
    assert program == "mesh-test"
    return [*MESH_TEST, *arguments]


def read_serving(command: Command) -> dict[str, object]:
    (line,) = [line for line in command.stderr.splitlines() if SERVING in line]
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def stop(command: Command, number: signal.Signals) -> None:
    command.send(number)
    assert command.wait() == 0, command.stderr[-4000:]
    assert "Traceback" not in command.stderr
    command.wait_until_gone()
    assert list(command.temporary.iterdir()) == []


def assert_private_journal(node: NodeFiles) -> None:
    journal = node.journal()
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700


def check_metrics(url: str) -> None:
    """Check that a hoster without peers shows all that it can know before an epoch is scored."""
    promised = list_promised(Process.NODE) - {"mesh_score", "mesh_score_epoch"}
    wait_until(lambda: list_names(read_samples(url)) == promised, "every metric of the node")
    samples = read_samples(url)
    assert get_value(samples, "mesh_blocks_served") == NUM_BLOCKS
    assert get_value(samples, "mesh_serving_state", state="online") == 1
    assert get_value(samples, "mesh_hotkey_balance_tensor") > 0
    assert get_value(samples, "mesh_kv_cache_usage_perc") == 0
    wait_until(
        lambda: get_value(read_samples(url), "mesh_alerts_firing") == 0, "the alert that clears"
    )
    assert get_value(samples, "mesh_alerts_lost_total") == 0
    status, text = scrape(url, "/readyz")
    # The other nodes of the subnet do not run.
    assert (status, json.loads(text)["missing"]) == (503, ["peers"])
    assert scrape(url, "/healthz")[0] == 200


def test_the_readme_has_these_lines() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert HOSTER_LINE in readme and VALIDATOR_LINE in readme


def test_the_program_is_installed_under_this_name() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "mesh-test", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Usage: mesh-test" in done.stdout


def test_hoster_and_validator_run_from_the_lines_as_they_are(place: Place, tmp_path: Path) -> None:
    hoster, validator = place.hoster, place.validator
    line = fill(HOSTER_LINE, place, hoster, usual=31330)
    with run_command(line, tmp_path, place.get_environment(hoster)) as first:
        first.wait_for(SERVING)
        port = line[line.index("--host_maddrs") + 1].rpartition("/")[2]
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{hoster.peer_id}"
        serving = read_serving(first)
        assert serving["peer_id"] == str(hoster.peer_id)
        assert serving["blocks"] == f"0:{NUM_BLOCKS}"
        assert serving["addresses"] == [
            address,
            f"/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{hoster.peer_id}",
        ]
        line = fill(VALIDATOR_LINE, place, validator, usual=31331, address=address)
        with run_command(line, tmp_path, place.get_environment(validator)) as second:
            second.wait_for(SERVING)
            assert read_serving(second)["role"] == "validator"
            assert NOTICE in first.stderr and NOTICE in second.stderr
            stop(second, signal.SIGTERM)
        stop(first, signal.SIGTERM)
    assert_private_journal(hoster)
    assert_private_journal(validator)


def test_with_a_hotkey_the_node_takes_part_and_says_how_it_is(place: Place, tmp_path: Path) -> None:
    node = place.hoster
    line = fill(HOSTER_LINE, place, node, usual=31330)
    line += ["--hotkey_path", str(node.hotkey), "--hotkey_password_file", str(node.password)]
    line += ["--metrics_port", "0"]
    with receive_posts() as (url, messages):
        # As if the hotkey had been empty when the node ended.
        folder = node.data_dir / f"{place.network.subnet_id}-{node.node_id}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "alerts.json").write_text('["low_balance"]')
        line += ["--alert_webhook", url, "--alert_webhook_private"]
        _run_with_a_hotkey(place, tmp_path, line)
    assert [message["text"] for message in messages] == [
        f"node {node.node_id} of subnet {place.network.subnet_id}: low_balance cleared"
    ]


@contextmanager
def receive_posts() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Take what is posted to a port of loopback; give its address and what came."""
    messages: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret", messages
        finally:
            server.shutdown()
            thread.join()


def _run_with_a_hotkey(place: Place, tmp_path: Path, line: list[str]) -> None:
    node = place.hoster
    with run_command(line, tmp_path, place.get_environment(node)) as command:
        command.wait_for(SERVING)
        assert NOTICE not in command.stderr
        asyncio.run(_build_blocks(place.url, 1))
        wait_until(lambda: bool(list(node.data_dir.glob("*/status.json"))), "status file")
        with run_command(
            [*MESH, "status", "--json"], tmp_path, place.get_environment(node)
        ) as status:
            assert status.wait(timeout_s=60) == 0, status.stderr
            shown = json.loads(status.stdout)
        assert (shown["peer_id"], shown["role"]) == (str(node.peer_id), "hoster")
        check_metrics(read_metrics_url(command.stderr))
        second = [*line, "--data_dir", str(node.data_dir)]
        with run_command(second, tmp_path, place.get_environment(node)) as twin:
            assert twin.wait(timeout_s=60) == 1
            assert twin.stderr.startswith("error: cannot listen on ")
        command.press_ctrl_c()
        assert command.wait() == 0
        command.wait_until_gone()
    assert_private_journal(node)
