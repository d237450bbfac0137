"""What a hoster shows of its sessions, its cache and its steps."""

from __future__ import annotations

from mesh.inference.measures import RefillResult
from mesh.inference.refusals import RefusalReason
from mesh.routing.heartbeat import ServerState
from subnet.hosting.serving import LayerServer
from subnet.metrics.page import Page


def fill_serving_state(page: Page, state: ServerState) -> None:
    """Put what the node announces about itself."""
    names = [each.name.lower() for each in ServerState]
    page.add_state("mesh_serving_state", state.name.lower(), names)


def fill_hosting(page: Page, server: LayerServer) -> None:
    """Put what the engine has done and does now. Reading it waits for nothing."""
    _fill_requests(page, server)
    measures = server.measures
    page.add("mesh_sessions_opened_total", measures.sessions_opened)
    for reason in RefusalReason:
        page.add("mesh_sessions_failed_total", measures.sessions_failed[reason.value], reason.value)
    for result in RefillResult:
        page.add("mesh_session_refills_total", measures.refills[result], result.value)
    page.add("mesh_refilled_rows_total", measures.refilled_rows)
    page.add("mesh_relays_refused_total", server.guard.refused)
    page.add("mesh_challenge_layers_total", measures.challenges)
    page.add("mesh_prefix_cache_queries_total", measures.prefix_queries)
    page.add("mesh_prefix_cache_hits_total", measures.prefix_hits)
    page.add("mesh_spec_decode_num_drafts_total", measures.spec_drafts)
    page.add("mesh_spec_decode_num_draft_tokens_total", measures.spec_draft_tokens)
    page.add("mesh_spec_decode_num_accepted_tokens_total", measures.spec_accepted_tokens)
    page.add("mesh_spec_decode_num_dropped_drafts_total", measures.spec_dropped_windows)
    page.add_histogram("mesh_hop_seconds", measures.step)
    layers = server.layers
    page.add("mesh_blocks_served", 0 if layers is None else layers.end - layers.start)
    page.add("mesh_throughput_rows", server.throughput)


def _fill_requests(page: Page, server: LayerServer) -> None:
    measures, waiting = server.measures, server.waiting_count
    page.add("mesh_sessions", server.session_count)
    page.add("mesh_num_requests_running", max(0, server.session_count - waiting))
    page.add("mesh_num_requests_waiting", waiting)
    page.add("mesh_prompt_tokens_total", measures.prompt_rows)
    page.add("mesh_generation_tokens_total", measures.decode_rows)
    page.add_histogram("mesh_time_to_first_token_seconds", measures.first_token)
    page.add_histogram("mesh_inter_token_latency_seconds", measures.between_tokens)
    if server.cache_tokens:
        in_use = server.cache_tokens - server.free_cache_tokens
        page.add("mesh_kv_cache_tokens", server.cache_tokens)
        page.add("mesh_kv_cache_usage_perc", in_use / server.cache_tokens)
