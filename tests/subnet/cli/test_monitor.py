"""``mesh monitor`` and the monitor's options: what they refuse before anything slow."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import typer

from subnet.cli.arguments import normalise_arguments
from subnet.cli.console import run_app
from subnet.cli.monitor import monitor
from subnet.cli.monitor_options import make_monitor_options
from subnet.errors import ConfigError, UsageError
from subnet.operator.monitor_options import MonitorOptions

PEER = "/ip4/1.2.3.4/tcp/1/p2p/12D3KooW"

app = typer.Typer()
app.command("monitor")(monitor)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--initial-peers"),
        (["--chain", "ws://127.0.0.1:1"], 2, "--subnet"),
        (["--initial-peers", PEER, "--subnet", "3"], 2, "--chain"),
        (["--initial-peers", PEER, "--host", "0.0.0.0"], 1, "--public"),
        (["--initial-peers", PEER, "--port", "70000"], 2, "65535"),
    ],
)
def test_a_mistake_is_one_sentence_and_one_fix(capsys, monkeypatch, arguments, code, says):
    monkeypatch.delenv("MESH_CHAIN", raising=False)
    lines = normalise_arguments(arguments, multi_value={"--initial-peers"})
    with pytest.raises(SystemExit) as ended:
        run_app(app, lines, name="mesh")
    talk = capsys.readouterr().err
    assert ended.value.code == code
    assert says in talk and "Traceback" not in talk


def test_without_a_port_a_node_shows_no_page():
    options = {"port": None, "host": None, "is_public": False, "shows_addresses": False}
    assert make_monitor_options(**options) is None
    for change in ({"host": "127.0.0.1"}, {"is_public": True}, {"shows_addresses": True}):
        with pytest.raises(UsageError, match="no port"):
            make_monitor_options(**options | change)


def test_a_port_that_is_taken_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="cannot show the monitor page"):
            make_monitor_options(
                port=taken.getsockname()[1], host=None, is_public=False, shows_addresses=False
            )


def test_the_options_arrive():
    made = make_monitor_options(port=0, host="0.0.0.0", is_public=True, shows_addresses=True)
    assert made == MonitorOptions(0, "0.0.0.0", True, True)


def test_a_node_without_the_page_loads_no_http_server():
    code = (
        "import sys, subnet.monitor.in_node, subnet.monitor.collector;"
        "sys.exit(any(name in sys.modules for name in ('uvicorn', 'fastapi', 'starlette')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
