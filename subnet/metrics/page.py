"""One answer to a scrape: values under the names of the table, rendered by prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family

from mesh.histogram import Histogram
from subnet.metrics.table import METRICS, Metric, MetricType, Process

Fill = Callable[["Page"], None]
"""Puts the present values of one process into a page."""


class Page:
    """Collects the values of one scrape. A value of None is not known, and is left out."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._families: dict[str, Family] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Put the value of a gauge or a counter, with the values of its labels in order.

        Raises KeyError for a name that is not in the table, ValueError for labels that are not.
        """
        metric = self._get(name)
        if len(labels) != len(metric.labels):
            raise ValueError(f"{name} has the labels {metric.labels}")
        if value is None:
            return
        family = self._families.get(name)
        if family is None:
            kind = GaugeMetricFamily if metric.type is MetricType.GAUGE else CounterMetricFamily
            family = self._families[name] = kind(name, metric.help, labels=metric.labels)
        family.add_metric(labels, value)  # type: ignore[attr-defined]

    def add_state(self, name: str, present: str | None, states: Iterable[str]) -> None:
        """Put 1 for the present state and 0 for each of the others."""
        for state in states:
            self.add(name, float(state == present), state)

    def add_histogram(self, name: str, histogram: Histogram) -> None:
        """Put a histogram; its buckets are added up as Prometheus wants them."""
        metric, measured = self._get(name), histogram.read()
        so_far, buckets = 0, []
        edges = [*map(str, measured.bounds), "+Inf"]
        for edge, count in zip(edges, measured.counts, strict=True):
            so_far += count
            buckets.append((edge, so_far))
        self._families[name] = HistogramMetricFamily(
            name, metric.help, buckets=buckets, sum_value=measured.total
        )

    def list_families(self) -> Iterator[Family]:
        """Return what was put, for prometheus_client."""
        return iter(self._families.values())

    def _get(self, name: str) -> Metric:
        metric = METRICS[name]
        if self._process not in metric.processes:
            raise ValueError(f"{name} is not a metric of a {self._process.value}")
        return metric


class _Filler:
    """Satisfies prometheus_client's Collector."""

    def __init__(self, process: Process, fill: Fill) -> None:
        self._process = process
        self._fill = fill

    def collect(self) -> Iterator[Family]:
        page = Page(self._process)
        self._fill(page)
        return page.list_families()

    def describe(self) -> Iterator[Family]:
        # Else registering would collect, before there is anything to read.
        return iter(())


def make_renderer(process: Process, fill: Fill) -> Callable[[], bytes]:
    """Return a function that renders the present values in Prometheus' text format.

    The registry is its own: no other library's metrics get onto the page.
    """
    registry = CollectorRegistry()
    registry.register(_Filler(process, fill))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)
