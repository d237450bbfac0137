"""One gateway for all clients, and the table of what they got."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.support.commands import MESH, run_command, wait_until

collect_ignore_glob = ["clients/*"]
START_S = 300.0
ROWS = pytest.StashKey[list[tuple[str, ...]]]()
HEAD = ("client", "versions", "passed", "refused", "model", "client", "seconds")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``mesh serve`` in front of two hosters."""
    folder = tmp_path_factory.mktemp("gateway")
    with run_command([sys.executable, "-m", "tests.strangers.swarm"], folder) as swarm:
        swarm.wait_for("hosters at ", timeout_s=START_S)
        address = swarm.stdout.split()[-1]
        line = [*MESH, "serve", "--port", "0", "--initial-peers", address, "--no-metrics"]
        with run_command(line, folder) as serve:
            serve.wait_for("OpenAI base URL", timeout_s=START_S)
            wait_until(lambda: serve.stdout.startswith("http://"), "address of the gateway")
            url = serve.stdout.split()[0]
            ready = lambda: httpx.get(f"{url}/readyz", timeout=10).status_code == 200  # noqa: E731
            wait_until(ready, "ready gateway", timeout_s=START_S)
            yield url
            serve.send(signal.SIGINT)
            serve.wait()
            assert "Traceback" not in serve.stderr, serve.stderr[-4000:]
        swarm.send(signal.SIGINT)
        swarm.wait()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def rows(pytestconfig: pytest.Config) -> list[tuple[str, ...]]:
    """The rows of the table that is printed at the end."""
    return pytestconfig.stash[ROWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[ROWS]
    if not rows:
        return
    table = [HEAD, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(HEAD))]
    terminalreporter.section("clients of the gateway")
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        terminalreporter.write_line("  ".join(cells).rstrip())
