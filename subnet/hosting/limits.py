"""What a hoster takes on: the operator's limits, and defaults for its device."""

from __future__ import annotations

from mesh.inference.engine import EngineLimits
from mesh.p2p.rpc_guard import RpcLimits
from subnet.operator.config import NodeConfig

DEVICE_LIMITS = {
    "cpu": EngineLimits(max_sessions=64, max_sessions_per_peer=32, max_batch_rows=32),
    "cuda": EngineLimits(
        max_sessions=256,
        max_sessions_per_peer=128,
        max_batch_rows=128,
        prefill_chunk=512,
        prefill_tokens=1024,
    ),
}
"""One gateway serves many people, so one peer may open half of all sessions. A GPU computes
hundreds of rows in the time of one."""


def choose_limits(config: NodeConfig) -> EngineLimits:
    """Return what the engine takes on: as the operator says, else what suits the device."""
    default = DEVICE_LIMITS["cpu" if config.device == "cpu" else "cuda"]
    sessions = config.max_sessions or default.max_sessions
    return EngineLimits(
        cache_tokens=config.attn_cache_tokens,
        max_sessions=sessions,
        max_sessions_per_peer=min(
            sessions, config.max_sessions_per_peer or default.max_sessions_per_peer
        ),
        max_batch_rows=config.max_batch_rows or default.max_batch_rows,
        prefill_chunk=config.prefill_chunk or default.prefill_chunk,
        prefill_tokens=default.prefill_tokens,
    )


def choose_rpc_limits(config: NodeConfig) -> RpcLimits:
    """Return what peers may open: enough streams for the sessions.

    A session has one stream, and its answers one more. The hoster before another one opens all of
    their sessions, so one peer may need a stream for each.
    """
    least, streams = RpcLimits(), 2 * choose_limits(config).max_sessions
    return RpcLimits(
        max_streams_per_peer=max(least.max_streams_per_peer, streams),
        max_streams=max(least.max_streams, 2 * streams),
    )
