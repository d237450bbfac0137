"""The page: only names of the table, histograms that add up, a registry of its own."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from mesh.histogram import Histogram
from subnet.metrics.page import Page, make_renderer
from subnet.metrics.table import STANDARD_SERIES, Process
from tests.support.metrics import get_value, list_names, parse_page


def test_a_name_that_is_not_in_the_table_is_refused():
    page = Page(Process.NODE)
    with pytest.raises(KeyError):
        page.add("mesh_surprise_total", 1)
    with pytest.raises(ValueError, match="not a metric of a gateway"):
        Page(Process.GATEWAY).add("mesh_epoch", 1)
    with pytest.raises(ValueError, match="has the labels"):
        page.add("mesh_peers", 1)


def test_a_value_that_is_not_known_is_left_out():
    page = Page(Process.NODE)
    page.add("mesh_stake_tensor", None)
    assert list(page.list_families()) == []


def test_a_histogram_adds_its_buckets_up():
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.add(value)
    render = make_renderer(
        Process.NODE, lambda page: page.add_histogram("mesh_hop_seconds", histogram)
    )
    samples = parse_page(render().decode())
    counts = [get_value(samples, "mesh_hop_seconds_bucket", le=le) for le in ("0.1", "1.0", "+Inf")]
    assert counts == [2, 3, 4]
    assert get_value(samples, "mesh_hop_seconds_count") == 4
    assert get_value(samples, "mesh_hop_seconds_sum") == pytest.approx(7.65)


def test_the_page_holds_nothing_of_the_global_registry():
    render = make_renderer(Process.NODE, lambda page: page.add("mesh_epoch", 7))
    own = list_names(parse_page(render().decode()))
    assert own == {"mesh_epoch", *STANDARD_SERIES}
    others = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    assert "mesh_epoch" not in others
