"""Write the Grafana dashboard of examples/monitoring, or check that the file is up to date.

    python tools/make_dashboard.py [--check]

The panels are listed below; tests/subnet/metrics/test_queries.py parses every query and compares
its names with the table of metrics.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

DASHBOARD = Path(__file__).resolve().parent.parent / "examples/monitoring/mesh-dashboard.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
WIDTH, HEIGHT = 8, 7
"""A third of Grafana's 24 columns, and rows of its grid."""
WHERE = '{job=~"$job",instance=~"$instance"}'


@dataclass(frozen=True)
class Line:
    """One query of a panel. WHERE stands for the choice of job and instance."""

    query: str
    legend: str = "{{instance}}"

    @property
    def expression(self) -> str:
        return self.query.replace("WHERE", WHERE)


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    lines: tuple[Line, ...]


def _quantiles(name: str) -> tuple[Line, ...]:
    return tuple(
        Line(
            f"histogram_quantile({q}, sum by (le, instance) (rate({name}_bucketWHERE[5m])))",
            f"{{{{instance}}}} p{round(100 * q)}",
        )
        for q in (0.5, 0.95)
    )


def _one(title: str, unit: str, query: str, legend: str = "{{instance}}") -> Panel:
    return Panel(title, unit, (Line(query, legend),))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it working": (
        _one("Ready", "bool", "mesh_readyWHERE"),
        _one("What is missing", "bool", "mesh_ready_checkWHERE == 0", "{{instance}} {{check}}"),
        _one("Takes part", "bool", "mesh_participationWHERE == 1", "{{instance}} {{status}}"),
    ),
    "Earning": (
        _one("Score of the last scored epoch", "percentunit", "mesh_scoreWHERE"),
        _one("Stake", "none", "mesh_stake_tensorWHERE"),
        _one("Eligible in the next epoch", "bool", "mesh_eligible_next_epochWHERE"),
        _one(
            "Why it is not eligible",
            "bool",
            "mesh_ineligible_reasonWHERE == 1",
            "{{instance}} {{reason}}",
        ),
        _one("Hotkey's balance", "none", "mesh_hotkey_balance_tensorWHERE"),
        _one(
            "Duties missed an hour",
            "short",
            "increase(mesh_duties_missed_totalWHERE[1h]) > 0",
            "{{instance}} {{duty}}",
        ),
        _one(
            "Duties done an hour",
            "short",
            "increase(mesh_duties_done_totalWHERE[1h])",
            "{{instance}} {{duty}}",
        ),
        Panel(
            "Refused, dropped, elected an hour",
            "short",
            (
                Line("increase(mesh_attestations_refused_totalWHERE[1h])", "{{instance}} refused"),
                Line("increase(mesh_records_dropped_totalWHERE[1h])", "{{instance}} dropped"),
                Line("increase(mesh_elections_totalWHERE[1h])", "{{instance}} elected"),
            ),
        ),
    ),
    "Requests": (
        Panel(
            "Requests",
            "short",
            (
                Line("mesh_num_requests_runningWHERE", "{{instance}} running"),
                Line("mesh_num_requests_waitingWHERE", "{{instance}} waiting"),
            ),
        ),
        Panel("Time to the first token", "s", _quantiles("mesh_time_to_first_token_seconds")),
        Panel("Between two tokens", "s", _quantiles("mesh_inter_token_latency_seconds")),
        Panel(
            "Tokens a second",
            "short",
            (
                Line("rate(mesh_generation_tokens_totalWHERE[5m])", "{{instance}} generated"),
                Line("rate(mesh_prompt_tokens_totalWHERE[5m])", "{{instance}} prompt"),
            ),
        ),
        Panel("Whole requests", "s", _quantiles("mesh_e2e_request_latency_seconds")),
        Panel(
            "Requests by their end",
            "reqps",
            (
                Line("rate(mesh_requests_totalWHERE[5m])", "{{instance}} {{result}}"),
                Line("rate(mesh_reroutes_totalWHERE[5m])", "{{instance}} rerouted"),
                Line("rate(mesh_refills_totalWHERE[5m])", "{{instance}} refilled"),
                Line("rate(mesh_replays_totalWHERE[5m])", "{{instance}} replayed"),
            ),
        ),
    ),
    "Hosting": (
        _one("Cache in use", "percentunit", "mesh_kv_cache_usage_percWHERE"),
        _one(
            "Prompts found in the cache",
            "percentunit",
            "rate(mesh_prefix_cache_hits_totalWHERE[5m])"
            " / rate(mesh_prefix_cache_queries_totalWHERE[5m])",
        ),
        Panel(
            "Drafted tokens",
            "short",
            (
                Line(
                    "rate(mesh_spec_decode_num_draft_tokens_totalWHERE[5m])"
                    " / rate(mesh_spec_decode_num_drafts_totalWHERE[5m])",
                    "{{instance}} in a draft",
                ),
                Line(
                    "rate(mesh_spec_decode_num_accepted_tokens_totalWHERE[5m])"
                    " / rate(mesh_spec_decode_num_drafts_totalWHERE[5m])",
                    "{{instance}} accepted of it",
                ),
                Line(
                    "rate(mesh_spec_decode_num_dropped_drafts_totalWHERE[5m])"
                    " / rate(mesh_spec_decode_num_drafts_totalWHERE[5m])",
                    "{{instance}} dropped drafts for each verified one",
                ),
            ),
        ),
        Panel("A step through this node", "s", _quantiles("mesh_hop_seconds")),
        Panel(
            "Sessions",
            "short",
            (
                Line("mesh_sessionsWHERE", "{{instance}} open"),
                Line("rate(mesh_sessions_opened_totalWHERE[5m])", "{{instance}} opened a second"),
            ),
        ),
        _one(
            "Sessions that failed an hour",
            "short",
            "increase(mesh_sessions_failed_totalWHERE[1h]) > 0",
            "{{instance}} {{reason}}",
        ),
        Panel(
            "Refills after a lost hoster an hour",
            "short",
            (
                Line("increase(mesh_session_refills_totalWHERE[1h])", "{{instance}} {{result}}"),
                Line("increase(mesh_refilled_rows_totalWHERE[1h])", "{{instance}} rows sent"),
            ),
        ),
        Panel(
            "Challenges an hour",
            "short",
            (
                Line("increase(mesh_challenge_layers_totalWHERE[1h])", "{{instance}} blocks"),
                Line("increase(mesh_relays_refused_totalWHERE[1h])", "{{instance}} relays refused"),
            ),
        ),
        Panel(
            "Blocks",
            "short",
            (
                Line("mesh_blocks_servedWHERE", "{{instance}} served here"),
                Line("mesh_blocks_online_minWHERE", "{{instance}} servers of the least served"),
            ),
        ),
    ),
    "Network and chain": (
        _one("Peers", "short", "mesh_peersWHERE", "{{instance}} {{path}}"),
        _one("Reached by peers", "short", "mesh_reachableWHERE", "{{instance}} {{how}}"),
        Panel(
            "Bytes a second",
            "Bps",
            (
                Line("rate(mesh_received_bytes_totalWHERE[5m])", "{{instance}} in {{kind}}"),
                Line("-rate(mesh_sent_bytes_totalWHERE[5m])", "{{instance}} out {{kind}}"),
            ),
        ),
        _one("Servers", "short", "mesh_serversWHERE", "{{instance}} {{role}}"),
        _one("Age of the chain's head", "s", "mesh_chain_head_age_secondsWHERE"),
        Panel("Chain calls", "s", _quantiles("mesh_chain_call_seconds")),
        _one(
            "Chain endpoints",
            "bool",
            "mesh_chain_endpoint_upWHERE",
            "{{instance}} {{endpoint}}",
        ),
    ),
    "Machine": (
        _one("Free disk", "bytes", "mesh_disk_free_bytesWHERE"),
        _one("Memory", "bytes", "process_resident_memory_bytesWHERE"),
        _one("CPU", "percentunit", "rate(process_cpu_seconds_totalWHERE[5m])"),
    ),
}


def build() -> str:
    """Return the dashboard as JSON."""
    board = (
        dashboard.Dashboard("mesh")
        .uid("mesh-subnet")
        .tags(["mesh", "hypertensor"])
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
        .with_variable(_make_variable("job", "label_values(mesh_build_info, job)"))
        .with_variable(
            _make_variable("instance", 'label_values(mesh_build_info{job=~"$job"}, instance)')
        )
    )
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(_make_panel(panel))
    return f"{JSONEncoder(sort_keys=True, indent=2).encode(board.build())}\n"


def _make_variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(query)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _make_panel(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(WIDTH)
        .height(HEIGHT)
        .legend(common.VizLegendOptions().show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for name, line in zip(ascii_uppercase, panel.lines, strict=False):
        query: Any = prometheus.Dataquery().expr(line.expression).legend_format(line.legend)
        made = made.with_target(query.ref_id(name))
    return made


def main() -> int:
    """Write or check the file; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    is_check = parser.parse_args().check
    content = build()
    if not is_check:
        DASHBOARD.write_text(content, encoding="utf-8")
    elif DASHBOARD.read_text(encoding="utf-8") != content:
        sys.stderr.write("the dashboard is out of date: run python tools/make_dashboard.py\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
