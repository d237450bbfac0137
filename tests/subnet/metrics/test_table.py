"""The contract of names: what scrapers, rules and dashboards build on."""

from __future__ import annotations

from collections import Counter

import pytest

from subnet.metrics.table import METRICS, STANDARD_SERIES, MetricType, list_series
from tests.support.metrics import read_document_rows, write_row

GROWING = {"peer", "peer_id", "node_id", "hotkey", "coldkey", "account", "key", "user", "caller"}
GROWING |= {"session", "request_id", "prompt", "url", "epoch", "block", "address"}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_follow_the_conventions_of_prometheus(metric):
    assert metric.name.startswith("mesh_") and metric.name == metric.name.lower()
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    if metric.type is MetricType.HISTOGRAM:
        assert metric.name.endswith("_seconds") and not metric.labels
    assert metric.help.endswith(".") and metric.processes


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_label_grows_with_peers_keys_or_prompts(metric):
    assert not GROWING & set(metric.labels)


def test_no_two_metrics_share_a_series():
    series = [name for metric in METRICS.values() for name in metric.series]
    assert max(Counter([*series, *STANDARD_SERIES]).values()) == 1
    assert set(series) < list_series()


def test_the_document_has_exactly_these_metrics():
    assert read_document_rows() == [write_row(metric) for metric in METRICS.values()]
