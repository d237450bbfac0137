"""Prometheus' own tool reads the rules, the configuration, every panel's query and the pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mesh.histogram import Histogram
from subnet.metrics.page import Page, make_renderer
from subnet.metrics.table import METRICS, MetricType, Process
from tests.support.metrics import ROOT

MONITORING = ROOT / "examples" / "monitoring"
BOARD = json.loads((MONITORING / "mesh-dashboard.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian's package prometheus has it)",
)


def promtool(*arguments: str | Path, text: str = "") -> tuple[int, str]:
    """Return the exit code and what was said."""
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def write_rules(folder: Path, queries: list[str]) -> Path:
    """Write recording rules, which promtool reads in full."""
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(queries)]
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    return path


def test_the_alert_rules_are_read() -> None:
    rules = MONITORING / "mesh-alerts.yml"
    groups = yaml.safe_load(rules.read_text())["groups"]
    count = sum(len(group["rules"]) for group in groups)
    code, said = promtool("check", "rules", rules)
    assert code == 0 and f"{count} rules found" in said, said


def test_the_configuration_is_read() -> None:
    code, said = promtool("check", "config", "--syntax-only", MONITORING / "prometheus.yml")
    assert code == 0, said


def test_every_query_of_the_dashboard_is_read(tmp_path: Path) -> None:
    # Grafana puts its own interval in; any length will do here.
    queries = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in BOARD["panels"]
        for target in panel.get("targets", ())
    ]
    code, said = promtool("check", "rules", write_rules(tmp_path, queries))
    assert code == 0 and f"{len(queries)} rules found" in said, said


def test_a_query_with_a_mistake_is_found(tmp_path: Path) -> None:
    code, said = promtool("check", "rules", write_rules(tmp_path, ["rate(mesh_epoch)"]))
    assert code != 0 and "expected type range vector" in said


@pytest.mark.parametrize("process", Process)
def test_a_page_with_every_metric_is_exposition_without_a_lint(process: Process) -> None:
    def fill(page: Page) -> None:
        for metric in METRICS.values():
            if process not in metric.processes:
                continue
            labels = ("x",) * len(metric.labels)
            if metric.type is MetricType.HISTOGRAM:
                page.add_histogram(metric.name, Histogram((0.1, 1.0)))
            else:
                page.add(metric.name, 1, *labels)

    page = make_renderer(process, fill)().decode()
    code, said = promtool("check", "metrics", text=page)
    assert code == 0 and not said, said
