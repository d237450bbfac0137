"""Every metric that a process of this project exports: name, type, help text and labels.

Nothing is exported that does not stand here (:class:`subnet.metrics.page.Page` refuses it), and
docs/metrics.md, the alert rules and the dashboard are tested against it. Names follow Prometheus:
base units, ``_total`` for counters; those about requests end as vLLM's do, so that panels carry
over by a rename. No label holds a peer id, an account, a key's name or anything else that grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class MetricType(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Process(Enum):
    """Who exports a metric; the value is what ``mesh_build_info`` calls it."""

    NODE = "node"
    BOOTSTRAP = "bootstrap"
    GATEWAY = "gateway"


NODE = frozenset({Process.NODE})
GATEWAY = frozenset({Process.GATEWAY})
SERVING = frozenset({Process.NODE, Process.GATEWAY})
ON_CHAIN = frozenset({Process.NODE, Process.BOOTSTRAP})
ALL = frozenset(Process)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``group`` is its heading in docs/metrics.md."""

    name: str
    type: MetricType
    help: str
    group: str
    processes: frozenset[Process]
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which a query finds it."""
        if self.type is MetricType.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


def _counter(
    name: str, help_text: str, group: str, processes: frozenset[Process], *labels: str
) -> Metric:
    return Metric(name, MetricType.COUNTER, help_text, group, processes, labels)


def _gauge(
    name: str, help_text: str, group: str, processes: frozenset[Process], *labels: str
) -> Metric:
    return Metric(name, MetricType.GAUGE, help_text, group, processes, labels)


def _histogram(name: str, help_text: str, group: str, processes: frozenset[Process]) -> Metric:
    return Metric(name, MetricType.HISTOGRAM, help_text, group, processes)


_PROCESS = (
    _gauge(
        "mesh_build_info",
        "Always 1; the labels name the version and the kind of process.",
        "Process",
        ALL,
        "version",
        "process",
    ),
    _gauge(
        "mesh_ready",
        "1 while /readyz answers 200.",
        "Process",
        ALL,
    ),
    _gauge(
        "mesh_ready_check",
        "1 for each check of /readyz that holds, 0 for the others.",
        "Process",
        ALL,
        "check",
    ),
    _gauge(
        "mesh_disk_free_bytes",
        "Free space on the disk of the data folder.",
        "Process",
        ON_CHAIN,
    ),
    _gauge(
        "mesh_alerts_firing",
        "Alerts that have fired and not cleared, where a webhook is given.",
        "Process",
        NODE,
    ),
    _counter(
        "mesh_alerts_lost_total",
        "Alerts that the webhook did not take after all attempts, or that found the queue full.",
        "Process",
        NODE,
    ),
)
_REQUESTS = (
    _gauge(
        "mesh_num_requests_running",
        "Node: sessions that are computed or wait for a peer. Gateway: answers under way.",
        "Requests",
        SERVING,
    ),
    _gauge(
        "mesh_num_requests_waiting",
        "Node: sessions whose next step waits for the compute thread. "
        "Gateway: requests that wait for a place.",
        "Requests",
        SERVING,
    ),
    _histogram(
        "mesh_time_to_first_token_seconds",
        "From the request to its first token. Node: where it serves the first blocks.",
        "Requests",
        SERVING,
    ),
    _histogram(
        "mesh_inter_token_latency_seconds",
        "Between two tokens of one answer. Node: where it serves the first blocks.",
        "Requests",
        SERVING,
    ),
    _histogram(
        "mesh_e2e_request_latency_seconds",
        "From a request to the end of its answer, of answers that were finished.",
        "Requests",
        GATEWAY,
    ),
    _counter(
        "mesh_prompt_tokens_total",
        "Prompt tokens. Node: those that went through its blocks.",
        "Requests",
        SERVING,
    ),
    _counter(
        "mesh_generation_tokens_total",
        "Generated tokens. Node: those that went through its blocks.",
        "Requests",
        SERVING,
    ),
    _counter(
        "mesh_requests_total",
        "Generation requests, by how they ended: finished, failed, left by the caller, refused.",
        "Requests",
        GATEWAY,
        "result",
    ),
    _counter(
        "mesh_reroutes_total",
        "Answers that went on over another route because a hoster was lost.",
        "Requests",
        GATEWAY,
    ),
    _counter(
        "mesh_refills_total",
        "Times that an answer went on while the hosters that were left kept their caches.",
        "Requests",
        GATEWAY,
    ),
    _counter(
        "mesh_replays_total",
        "Times that a begun answer was computed whole again over a new route.",
        "Requests",
        GATEWAY,
    ),
)
_HOSTING = (
    _gauge("mesh_sessions", "Open sessions at this hoster.", "Hosting", NODE),
    _counter(
        "mesh_sessions_opened_total",
        "Sessions that were admitted.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_sessions_failed_total",
        "Sessions that were refused or ended early, by reason.",
        "Hosting",
        NODE,
        "reason",
    ),
    _counter(
        "mesh_session_refills_total",
        "Sessions that went on over a changed route: their cache was kept, was filled again, or "
        "given_up because the states that the next hoster needs were not kept.",
        "Hosting",
        NODE,
        "result",
    ),
    _counter(
        "mesh_refilled_rows_total",
        "Rows of kept hidden states that were sent to fill a lost hoster's blocks again.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_relays_refused_total",
        "Steps that the relay guard refused: hidden states of an open challenge.",
        "Hosting",
        NODE,
    ),
    _histogram(
        "mesh_hop_seconds",
        "One step through this hoster's blocks, with its wait for the compute thread.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_challenge_layers_total",
        "Challenged layers that were computed.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_prefix_cache_queries_total",
        "Tokens of prompts that were looked for in the cache, counted when their session ends.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_prefix_cache_hits_total",
        "Those of them that were there, and were not computed again.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_spec_decode_num_drafts_total",
        "Drafts that were verified, of answers that begin at this node's blocks.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_spec_decode_num_draft_tokens_total",
        "Tokens of these drafts.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_spec_decode_num_accepted_tokens_total",
        "Those of them that became tokens of answers.",
        "Hosting",
        NODE,
    ),
    _counter(
        "mesh_spec_decode_num_dropped_drafts_total",
        "Drafts that were sent before the one before them was verified, and in vain.",
        "Hosting",
        NODE,
    ),
    _gauge(
        "mesh_kv_cache_usage_perc",
        "Part of the key-value cache that is in use; 1 is all of it.",
        "Hosting",
        NODE,
    ),
    _gauge(
        "mesh_kv_cache_tokens",
        "Size of the key-value cache, in tokens.",
        "Hosting",
        NODE,
    ),
    _gauge(
        "mesh_serving_state",
        "1 for the state that the node announces, 0 for the others.",
        "Hosting",
        NODE,
        "state",
    ),
    _gauge("mesh_blocks_served", "Blocks that this node serves now.", "Hosting", NODE),
    _gauge(
        "mesh_throughput_rows",
        "Rows through one block per second, as measured before going online.",
        "Hosting",
        NODE,
    ),
)
_NETWORK = (
    _gauge(
        "mesh_reachable",
        "1 for how peers reach this node: direct, relayed, none, private or unknown; else 0.",
        "Network",
        NODE,
        "how",
    ),
    _gauge(
        "mesh_peers",
        "Peers with an open connection, direct or only over a relay.",
        "Network",
        ON_CHAIN,
        "path",
    ),
    _gauge(
        "mesh_servers",
        "Nodes of the network whose heartbeat is valid, by role.",
        "Network",
        ON_CHAIN,
        "role",
    ),
    _gauge(
        "mesh_blocks_online_min",
        "Servers of the model's least served block; 0: no prompt can be answered.",
        "Network",
        SERVING,
    ),
    _counter(
        "mesh_received_bytes_total",
        "Payload received from peers: calls and streams, or records.",
        "Network",
        ALL,
        "kind",
    ),
    _counter(
        "mesh_sent_bytes_total",
        "Payload sent to peers: calls and streams, or records.",
        "Network",
        ALL,
        "kind",
    ),
)
_CHAIN = (
    _gauge("mesh_chain_block_height", "The newest accepted head.", "Chain", ON_CHAIN),
    _gauge(
        "mesh_chain_head_age_seconds",
        "Seconds since the timestamp of the newest accepted head.",
        "Chain",
        ON_CHAIN,
    ),
    _gauge("mesh_chain_block_time_seconds", "The chain's target time.", "Chain", ON_CHAIN),
    _counter(
        "mesh_chain_unavailable_total",
        "Times that the chain did not answer in spite of repeats, or a head was implausible.",
        "Chain",
        ON_CHAIN,
    ),
    _gauge(
        "mesh_chain_endpoint_up",
        "0 while an endpoint fails; named by host and port alone.",
        "Chain",
        ON_CHAIN,
        "endpoint",
    ),
    _counter(
        "mesh_chain_endpoint_failures_total",
        "Times that an endpoint was left because it failed.",
        "Chain",
        ON_CHAIN,
        "endpoint",
    ),
    _histogram(
        "mesh_chain_call_seconds",
        "One call of the chain, of several requests, with connecting if there was no session.",
        "Chain",
        ON_CHAIN,
    ),
)
_EPOCH = (
    _gauge("mesh_epoch", "The subnet's present epoch.", "Epoch", ON_CHAIN),
    _gauge("mesh_phase", "1 for the present phase, 0 for the others.", "Epoch", ON_CHAIN, "phase"),
    _gauge(
        "mesh_phase_deadline_seconds",
        "Seconds until the present phase ends, at the chain's target time.",
        "Epoch",
        ON_CHAIN,
    ),
    _gauge(
        "mesh_participation",
        "1 for whether the node takes part in the epoch, or why not; 0 for the others.",
        "Epoch",
        NODE,
        "status",
    ),
    _counter(
        "mesh_duties_done_total",
        "Duties done; a proposal and an attestation once a block holds them.",
        "Epoch",
        NODE,
        "duty",
    ),
    _counter(
        "mesh_duties_postponed_total",
        "Times that a duty could not be done when it was tried; it stays owed for its time.",
        "Epoch",
        NODE,
        "duty",
    ),
    _counter(
        "mesh_duties_missed_total",
        "Duties owed, not done, and past their time.",
        "Epoch",
        NODE,
        "duty",
    ),
    _counter(
        "mesh_attestations_refused_total",
        "Proposals that differ from what this node computed.",
        "Epoch",
        NODE,
    ),
    _counter(
        "mesh_records_dropped_total",
        "Records that stores answered with and that are not admitted.",
        "Epoch",
        NODE,
    ),
    _counter("mesh_elections_total", "Epochs in which this node was elected.", "Epoch", NODE),
    _gauge(
        "mesh_score",
        "This node's score of the last scored epoch, 0 to 1, as it computed it itself.",
        "Epoch",
        NODE,
    ),
    _gauge("mesh_score_epoch", "The epoch that mesh_score is about.", "Epoch", NODE),
    _gauge(
        "mesh_hotkey_balance_tensor",
        "What the hotkey can pay fees with.",
        "Epoch",
        NODE,
    ),
    _gauge("mesh_stake_tensor", "Stake of the hotkey in this subnet.", "Epoch", NODE),
    _gauge(
        "mesh_eligible_next_epoch",
        "1 if this node can be elected, attest and be paid in the next epoch, else 0.",
        "Epoch",
        NODE,
    ),
    _gauge(
        "mesh_ineligible_reason",
        "1 for the reason why mesh_eligible_next_epoch is 0, 0 for the others.",
        "Epoch",
        NODE,
        "reason",
    ),
)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for group in (_PROCESS, _REQUESTS, _HOSTING, _NETWORK, _CHAIN, _EPOCH)
    for metric in group
}

STANDARD_SERIES = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)
"""What prometheus_client tells about any process, on Linux."""


def list_series(metrics: Iterable[Metric] = METRICS.values()) -> frozenset[str]:
    """Return every name that a query may use."""
    own = frozenset(series for metric in metrics for series in metric.series)
    return own | frozenset(STANDARD_SERIES)
