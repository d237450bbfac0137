"""How fast a range could decode: an estimate from memory bandwidth, before anything is loaded.

One token alone reads every weight of the range once, and on models of a billion parameters that is
what it waits for. An estimate, no promise: prompts, many sessions at once and hops between hosters
are not in it. A node measures itself when it starts.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mesh.model.capacity import (
    ServingFormat,
    compute_cache_bytes,
    compute_head_bytes,
    compute_layer_bytes,
    make_device_error,
)
from mesh.model.config import LayerSpan, ModelConfig

LAYER_OVERHEAD_S = 0.0001
"""Time of a layer that is not reading weights: kernels being started, norms, attention."""
TYPICAL_CONTEXT = 512
"""Cached tokens that the estimated step attends to."""
_BUFFER_BYTES = 256 << 20
_ROUNDS = 4


def compute_bytes_per_token(config: ModelConfig, form: ServingFormat, span: LayerSpan) -> int:
    """Return what one decode step of one session reads in ``span``."""
    context = min(TYPICAL_CONTEXT, config.max_context)
    total = len(span) * compute_layer_bytes(config, form)
    total += compute_cache_bytes(config, form, layers=len(span), tokens=context)
    return total + (compute_head_bytes(config, form) if span.end == config.num_layers else 0)


def estimate_tokens_per_second(
    config: ModelConfig, form: ServingFormat, span: LayerSpan, *, bytes_per_second: float
) -> float:
    """Return the tokens a second that ``span`` could decode for one session."""
    reading_s = compute_bytes_per_token(config, form, span) / bytes_per_second
    return 1.0 / (reading_s + len(span) * LAYER_OVERHEAD_S)


def measure_bandwidth(device: str, *, threads: int) -> float:
    """Return the bytes a second that ``device`` reads from its memory. Raises DeviceUnavailable."""
    if device == "cpu":
        return _measure_host_bandwidth(threads)
    return _measure_gpu_bandwidth(device)


def _measure_host_bandwidth(threads: int) -> float:
    """Read a buffer far larger than the caches, in parts side by side; the best round counts."""
    buffer = np.ones(_BUFFER_BYTES // 8, dtype=np.int64)
    parts = np.array_split(buffer, threads)
    with ThreadPoolExecutor(threads) as pool:
        elapsed_s = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            # numpy lets go of the interpreter while it reads.
            list(pool.map(np.max, parts))
            elapsed_s.append(time.perf_counter() - started)
    return buffer.nbytes / min(elapsed_s)


def _measure_gpu_bandwidth(device: str) -> float:
    import torch

    try:
        buffer = torch.ones(_BUFFER_BYTES // 4, dtype=torch.int32, device=device)
        elapsed_s = []
        for _ in range(_ROUNDS):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            buffer.max()
            torch.cuda.synchronize(device)
            elapsed_s.append(time.perf_counter() - started)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise make_device_error(device, error) from error
    return float(buffer.nbytes / min(elapsed_s))
