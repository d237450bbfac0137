"""Alert rules and dashboard: every query is PromQL, and about metrics and labels that exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from make_dashboard import DASHBOARD, build
from subnet.cli.metrics import make_metrics_options
from subnet.metrics.serving import DEFAULT_PORTS
from subnet.metrics.table import METRICS, MetricType, list_series
from subnet.operator.vitals import LOW_DISK_BYTES
from tests.support.metrics import ROOT

MONITORING = ROOT / "examples" / "monitoring"
RULES = yaml.safe_load((MONITORING / "mesh-alerts.yml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
BOARD = json.loads(DASHBOARD.read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
OF_PROMETHEUS = {"up"}
SCRAPED = {"job", "instance", "le"}
LABELS = {
    series: SCRAPED | set(metric.labels) for metric in METRICS.values() for series in metric.series
}


def list_parts(query: str) -> list[Any]:
    """Return every part of a query. Raises ValueError for what is not PromQL."""
    parts: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), lambda part: parts.append(part))
    return parts


def list_selectors(query: str) -> Iterator[Any]:
    for part in list_parts(query):
        if isinstance(part, promql_parser.MatrixSelector):
            yield part.vector_selector
        elif isinstance(part, promql_parser.VectorSelector):
            yield part


def check(query: str) -> None:
    """Fail for a name or a label that no process exports."""
    selectors = list(list_selectors(query))
    assert selectors
    for selector in selectors:
        assert selector.name in list_series() | OF_PROMETHEUS, f"there is no {selector.name}"
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= LABELS.get(selector.name, SCRAPED), f"{selector.name} lacks {used}"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_what_exists_and_says_what_to_do(alert):
    rule = ALERTS[alert]
    check(rule["expr"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_asks_for_what_exists(query):
    check(query)


@pytest.mark.parametrize(
    "query",
    [
        "mesh_surprise > 0",
        "rate(mesh_hop_seconds[5m])",
        'mesh_peers{peer_id="x"}',
        "sum(rate(mesh_requests_total[5m])) / sum(mesh_request_total)",
    ],
)
def test_a_name_or_label_that_does_not_exist_is_found(query):
    with pytest.raises(AssertionError):
        check(query)


def test_what_is_not_promql_is_found():
    with pytest.raises(ValueError):
        check("rate(mesh_sessions_opened_total[5m)")


def test_counters_are_read_by_their_growth():
    counters = {m.name for m in METRICS.values() if m.type is MetricType.COUNTER}
    for query in [*QUERIES, *(rule["expr"] for rule in ALERTS.values())]:
        parts = list_parts(query)
        ranged = {
            part.vector_selector.name
            for part in parts
            if isinstance(part, promql_parser.MatrixSelector)
        }
        named = {selector.name for selector in list_selectors(query)}
        assert counters & named <= ranged, query


def test_the_dashboard_is_what_its_panels_say_and_shows_every_metric_of_the_table():
    assert DASHBOARD.read_text(encoding="utf-8") == build()
    shown = {selector.name for query in QUERIES for selector in list_selectors(query)}
    asked = {s.name for rule in ALERTS.values() for s in list_selectors(rule["expr"])}
    not_drawn = {
        metric.name for metric in METRICS.values() if not (shown | asked) & set(metric.series)
    }
    assert not_drawn == {
        "mesh_alerts_firing",
        "mesh_build_info",
        "mesh_chain_block_height",
        "mesh_chain_endpoint_failures_total",
        "mesh_chain_unavailable_total",
        "mesh_duties_postponed_total",
        "mesh_epoch",
        "mesh_kv_cache_tokens",
        "mesh_phase",
        "mesh_phase_deadline_seconds",
        "mesh_serving_state",
        "mesh_throughput_rows",
    }


def test_prometheus_scrapes_the_default_ports():
    scraping = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = scraping["scrape_configs"]
    (targets,) = [static["targets"] for static in job["static_configs"]]
    options = make_metrics_options(host=None, port=None, token_file=None, no_metrics=False)
    assert options is not None
    assert targets == [f"{options.host}:{port}" for port in DEFAULT_PORTS.values()]


def test_the_disk_rule_warns_where_doctor_and_readyz_do():
    assert ALERTS["MeshDiskLow"]["expr"] == f"mesh_disk_free_bytes < {LOW_DISK_BYTES}"
