"""The compose file: Docker's own tool takes it, and our command line takes each service's line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from subnet.metrics.serving import DEFAULT_PORTS
from subnet.metrics.table import Process
from subnet.operator.interrupts import STOP_S
from tests.support.command_lines import check_line

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "compose"
FILE = FOLDER / "compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OURS = ("devchain", "bootstrap", "node", "gateway")
DOTENV = {
    "MESH_MODEL": "mesh-tiny",
    "MESH_PEER": "/ip4/203.0.113.7/tcp/31330/p2p/"
    "12D3KooWBhV6kfbM9aDgJ2SpBsYVvVTkv2zRNHLrzmYCH4CDmwUQ",
}
GRACE = {"1m": 60, "90s": 90}
needs_compose = pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not installed"
)


def run_config(path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Let docker-compose read and check the file; it needs no daemon for that."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | changes
    return subprocess.run(
        ["docker-compose", "--file", path, "--profile", "devchain", "config"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


def fill(words: list[str]) -> list[str]:
    """Put the values of a .env into the words, as compose does."""
    return [
        re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", lambda match: DOTENV[match[1]], str(word))
        for word in words
    ]


def test_it_has_every_service_and_each_is_started_again_and_judged() -> None:
    assert set(SERVICES) == {*OURS, "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["logging"]["options"]["max-size"], name


@needs_compose
def test_docker_compose_takes_the_file_and_fills_it_in() -> None:
    done = run_config(FILE, **DOTENV)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    assert services["node"]["command"][0] == "mesh-tiny"
    assert services["node"]["environment"] == {"MESH_CHAIN": "ws://127.0.0.1:9944"}


@needs_compose
@pytest.mark.parametrize("missing", sorted(DOTENV))
def test_docker_compose_names_the_value_that_is_missing(missing: str) -> None:
    rest = {name: value for name, value in DOTENV.items() if name != missing}
    done = run_config(FILE, **rest)
    assert done.returncode != 0 and missing in done.stderr and "into .env" in done.stderr


@needs_compose
@pytest.mark.parametrize(
    ("old", "new"),
    [("restart: unless-stopped", "restrt: unless-stopped"), ("stop_grace_period: 1m", "stop: 1m")],
)
def test_docker_compose_names_a_planted_fault(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(TEXT.replace(old, new))
    done = run_config(path, **DOTENV)
    assert done.returncode != 0 and new.partition(":")[0] in done.stderr


@pytest.mark.parametrize("name", OURS)
def test_our_command_line_takes_what_the_service_starts(name: str) -> None:
    service = SERVICES[name]
    program = service.get("entrypoint", ["mesh-test"])[0]
    check_line(program, fill(service["command"]))


@pytest.mark.parametrize("name", OURS)
def test_a_health_check_judges_by_status_readyz_or_the_chain_itself(name: str) -> None:
    _, program, *rest = SERVICES[name]["healthcheck"]["test"]
    if program == "mesh":
        check_line(program, rest)
        return
    ports = {"bootstrap": Process.BOOTSTRAP, "gateway": Process.GATEWAY}
    assert f"http://127.0.0.1:{DEFAULT_PORTS[ports[name]]}/readyz" in rest[1]
    compile(rest[1], name, "exec")


@pytest.mark.parametrize("name", ["node", "bootstrap", "gateway"])
def test_docker_waits_longer_than_a_process_drains(name: str) -> None:
    assert GRACE[SERVICES[name]["stop_grace_period"]] > STOP_S


def test_nothing_but_peers_is_reached_from_outside() -> None:
    assert all(service["network_mode"] == "host" for service in SERVICES.values())
    assert "--expose" not in TEXT and "--metrics-host" not in TEXT
    assert "--web.listen-address=127.0.0.1:9090" in SERVICES["prometheus"]["command"]
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_every_file_that_is_mounted_exists_and_each_process_is_scraped() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    made_by_operator = {"./keys"}
    assert all((FOLDER / file).exists() for file in set(files) - made_by_operator)
    config = yaml.safe_load((FOLDER / "../monitoring/prometheus.yml").read_text())
    (targets,) = config["scrape_configs"][0]["static_configs"]
    assert targets["targets"] == [f"127.0.0.1:{port}" for port in DEFAULT_PORTS.values()]


def test_grafana_finds_the_source_and_the_dashboard() -> None:
    source = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())
    provider = yaml.safe_load((FOLDER / "grafana/dashboards/mesh.yml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    folder = provider["providers"][0]["options"]["path"]
    target = f"{folder}/mesh-dashboard.json:ro"
    (mount,) = (one for one in SERVICES["grafana"]["volumes"] if one.endswith(target))
    assert json.loads((FOLDER / mount.split(":")[0]).read_text())["uid"] == "mesh-subnet"
