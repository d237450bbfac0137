"""The metrics page as Prometheus reads it, and docs/metrics.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from subnet.metrics.table import METRICS, Metric, Process, list_series

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read_metrics_url(log: str) -> str:
    """Return where a process says in its JSON log that it shows its metrics."""
    (line,) = [line for line in log.splitlines() if '"event": "metrics"' in line]
    return str(json.loads(line)["url"])


def scrape(url: str, path: str = "/metrics") -> tuple[int, str]:
    """Return the status and the text of an answer."""
    answer = httpx.get(url.removesuffix("/metrics") + path, timeout=20)
    return answer.status_code, answer.text


def read_samples(url: str) -> Samples:
    """Return what a scrape of the URL gives."""
    status, page = scrape(url)
    assert status == 200, page
    return parse_page(page)


def list_promised(process: Process) -> frozenset[str]:
    """Return the names that a process of this kind exports once it knows everything."""
    return list_series(metric for metric in METRICS.values() if process in metric.processes)


def parse_page(page: str) -> Samples:
    """Return the value of each sample by its name and its labels, sorted."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def list_names(samples: Samples) -> frozenset[str]:
    """Return the names of all samples."""
    return frozenset(name for name, _ in samples)


def get_value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample's value. Raises KeyError."""
    return samples[name, tuple(sorted(labels.items()))]


def write_row(metric: Metric) -> str:
    """Return a metric's line in the tables of docs/metrics.md."""
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    who = ", ".join(sorted(process.value for process in metric.processes))
    return f"| `{metric.name}` | {metric.type.value} | {labels} | {who} | {metric.help} |"


def read_document_rows() -> list[str]:
    """Return the lines of docs/metrics.md that are about a metric of our own, in order."""
    return re.findall(r"^\| `mesh_.*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
