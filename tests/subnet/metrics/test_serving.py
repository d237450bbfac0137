"""Where metrics are shown: the default port, the operator's port, and the token."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import structlog

from mesh.api.checks import HealthCheck
from subnet.cli.metrics import make_metrics_options
from subnet.errors import ConfigError, UsageError
from subnet.metrics import serving
from subnet.metrics.serving import DEFAULT_PORTS, serve_metrics
from subnet.metrics.table import Process
from subnet.operator.metrics_options import MetricsOptions
from tests.support.metrics import get_value, parse_page

TOKEN = "0123456789abcdef"


def write_token(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def show(options):
    checks = (HealthCheck("chain", True, ""), HealthCheck("disk", False, ""))
    return serve_metrics(options, Process.NODE, lambda page: None, lambda: checks)


async def fetch_page(url):
    import httpx

    async with httpx.AsyncClient(timeout=20, verify=False) as client:
        return parse_page((await client.get(url)).text)


async def test_the_page_says_what_runs_and_which_checks_hold():
    with structlog.testing.capture_logs() as logs:
        async with show(MetricsOptions(port=0)):
            (entry,) = [entry for entry in logs if entry["event"] == "metrics"]
            samples = await fetch_page(entry["url"])
    assert get_value(samples, "mesh_ready") == 0
    assert get_value(samples, "mesh_ready_check", check="chain") == 1
    assert get_value(samples, "mesh_ready_check", check="disk") == 0
    (build,) = [labels for name, labels in samples if name == "mesh_build_info"]
    assert dict(build)["process"] == "node"


async def test_a_second_process_on_the_default_port_goes_on_without_metrics(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setitem(serving.DEFAULT_PORTS, Process.NODE, taken.getsockname()[1])
        with structlog.testing.capture_logs() as logs:
            async with show(MetricsOptions()):
                pass
    assert [entry["event"] for entry in logs] == ["no metrics: their port is taken"]


async def test_a_taken_port_that_the_operator_chose_ends_the_start():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="cannot listen"):
            async with show(MetricsOptions(port=taken.getsockname()[1])):
                pytest.fail("it listens twice")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None])
def test_a_taken_port_is_named_before_anything_slow(host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot show metrics on .*port {port} is in use"):
            make_metrics_options(host=host, port=port, token_file=None, no_metrics=False)


def test_default_ports_differ_and_are_never_given_to_outgoing_connections():
    ports = list(DEFAULT_PORTS.values())
    assert len(set(ports)) == len(Process)
    low, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert max(ports) < low


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "node.example.org"])
def test_beyond_loopback_a_token_is_demanded(host, tmp_path):
    with pytest.raises(ConfigError, match="without a token"):
        make_metrics_options(host=host, port=None, token_file=None, no_metrics=False)
    token_file = write_token(tmp_path / "token", f"{TOKEN}\n")
    options = make_metrics_options(host=host, port=None, token_file=token_file, no_metrics=False)
    assert options is not None and options.read_token() == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
def test_on_loopback_none_is(host):
    options = make_metrics_options(host=host, port=None, token_file=None, no_metrics=False)
    assert options is not None and options.read_token() is None


@pytest.mark.parametrize("text", ["", "short", "two words and more of them", "x" * 513])
def test_what_is_no_token_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="does not hold a token"):
        MetricsOptions(token_file=write_token(tmp_path / "token", text)).read_token()


def test_a_token_that_others_can_read_or_that_is_missing_is_refused(tmp_path):
    exposed = write_token(tmp_path / "exposed", TOKEN, mode=0o644)
    with pytest.raises(ConfigError, match="metrics token file"):
        MetricsOptions(token_file=exposed).read_token()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("absent", "pipe"):
        with pytest.raises(ConfigError, match="cannot read the metrics token file"):
            MetricsOptions(token_file=tmp_path / name).read_token()


def test_no_metrics_excludes_the_other_options(tmp_path):
    assert make_metrics_options(host=None, port=None, token_file=None, no_metrics=True) is None
    with pytest.raises(UsageError):
        make_metrics_options(host=None, port=1, token_file=None, no_metrics=True)
