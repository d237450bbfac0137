"""What each public client gets of a real gateway: all that is not listed passes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mesh.model.packaged import SMOLLM2
from tests.strangers.environments import Client, list_clients
from tests.strangers.outcomes import KINDS, judge, read_expected, read_report
from tests.strangers.reference import write_reference

SUITE_TIMEOUT_S = 1800.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("client", list_clients(), ids=lambda client: client.name)
def test_client(client: Client, gateway: str, rows: list[tuple[str, ...]], tmp_path: Path) -> None:
    client.install()
    environment = {"MESH_URL": gateway, "MESH_MODEL": SMOLLM2.name, "OPENAI_API_KEY": "none"}
    if client.name == "lm_eval":
        environment["MESH_REFERENCE"] = str(write_reference(client.folder, tmp_path))
    report = tmp_path / "report.xml"
    began_s = time.monotonic()
    client.run(report, environment, timeout_s=SUITE_TIMEOUT_S)
    took_s = time.monotonic() - began_s
    verdict = judge(read_report(report), read_expected(client.folder / "outcomes.toml"))
    tools = ("pytest", "node", "zod")
    named = {name: version for name, version in client.list_named().items() if name not in tools}
    counts = [str(verdict.counts.get(kind, 0)) for kind in ("passed", *KINDS)]
    versions = ", ".join(f"{name} {version}" for name, version in named.items())
    rows.append((client.name, versions, *counts, f"{took_s:.0f}"))
    assert not verdict.errors, "\n".join(verdict.errors)
