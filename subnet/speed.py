"""How fast this hoster computes, measured before it announces itself."""

from __future__ import annotations

import time

import numpy as np

from mesh.inference.engine import Engine
from subnet.interfaces import BlockTask

ROWS = 16
REPEATS = 3
MAX_THROUGHPUT = 2**32 - 1


async def measure_throughput(engine: Engine) -> int:
    """Return rows through one block per second: the best of a few runs of the first block.

    It runs in float32 like a challenge, so it also proves that the weights compute.
    """
    hidden = np.zeros((ROWS, engine.config.hidden_size), dtype=np.float32)
    task = BlockTask(block=engine.blocks.start, hidden=hidden + 0.5)
    best_s = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        await engine.run_tasks([task])
        best_s = min(best_s, time.perf_counter() - began)
    return min(MAX_THROUGHPUT, max(1, int(ROWS / max(best_s, 1e-9))))
