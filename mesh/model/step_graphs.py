"""Decode steps of 1, 2, 4, 8, … rows, each captured as a CUDA graph.

Launching a step kernel by kernel takes a CPU longer than a GPU takes to compute it; replaying a
graph is one launch. Elsewhere than on CUDA a replay runs the same step kernel by kernel, so the
tests prove everything but the capture itself without a card.

**Bounds.** The largest step is captured first, so a size that is left out, because capturing took
``MAX_CAPTURE_S`` or the graphs ``MAX_GRAPH_BYTES``, is computed as the next larger one.

**Deterministic** shards have one size only: a product of another number of rows may round
otherwise, and a row must have the same bits alone and in a crowd. On a CPU they multiply row by
row instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any

import torch
from torch import Tensor

from mesh.model.decode_step import DecodeStep, StepMemory
from mesh.model.llama import ShardRunner
from mesh.model.paged_attention import has_triton
from mesh.progress import track

MAX_CAPTURE_S = 60.0
"""Seconds of a node's start; about one is a graph's, the first one also compiles a kernel."""
MAX_GRAPH_BYTES = 512 << 20
"""What graphs may hold on the device beside weights and cache: half of RUNTIME_BYTES."""
WARM_UP_RUNS = 2
"""Runs before a capture: libraries allocate their workspaces in the first one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launched:
    """The outputs of a step that is under way: views that the next step overwrites.

    At the last layer ``logits`` float32 [rows, vocabulary] and their ``largest``, ``token_ids`` and
    ``totals`` (log of the sum of exponentials); elsewhere ``hidden`` [rows, hidden_size].
    ``rows_in`` are the hidden states that came in, if any.
    """

    logits: Tensor
    largest: Tensor
    token_ids: Tensor
    totals: Tensor
    hidden: Tensor
    rows_in: Tensor


def list_sizes(max_rows: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, … and the limit itself."""
    powers = [size for size in accumulate(repeat(2, 31), int.__mul__, initial=1) if size < max_rows]
    return (*powers, max_rows)


def make_step_graphs(
    runner: ShardRunner, *, max_rows: int, deterministic: bool
) -> StepGraphs | None:
    """Capture the steps of a shard; None where that cannot be done, which is said in the log."""
    is_cuda = runner.weights.device.type == "cuda"
    if is_cuda and runner.weights.config.experts is not None:
        logger.warning("decode steps are not captured: experts are chosen on the CPU")
        return None
    if is_cuda and not has_triton():
        logger.warning("decode steps are not captured: triton is not installed")
        return None
    sizes = (max_rows,) if deterministic and is_cuda else list_sizes(max_rows)
    try:
        with torch.inference_mode():
            return StepGraphs(runner, sizes)
    except Exception as error:
        # A library's error of any kind: whatever it is, the shard can be served without graphs.
        reason = str(error).partition("\n")[0]
        logger.warning("decode steps are not captured: %s", reason, exc_info=True)
        return None


class StepGraphs:
    """The decode steps of one shard, by their number of rows. Used from the compute thread only."""

    def __init__(self, runner: ShardRunner, sizes: Sequence[int]) -> None:
        self._memory = StepMemory(runner, max_rows=max(sizes))
        self._steps: dict[int, DecodeStep] = {}
        self._replays: dict[int, Callable[[], None]] = {}
        self._turn = 0
        self._copied = [_Mark(runner.weights.device) for _ in range(2)]
        self._capture_all(runner, sizes)

    @property
    def max_rows(self) -> int:
        """The rows of the largest step."""
        return self._memory.max_rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of rows for which there is a step."""
        return tuple(sorted(self._steps))

    def _capture_all(self, runner: ShardRunner, sizes: Sequence[int]) -> None:
        device = runner.weights.device
        started, used = time.perf_counter(), measure_reserved(device)
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        with track("capturing decode steps", total=len(sizes), unit="graphs") as count:
            for size in sorted(sizes, reverse=True):
                step = DecodeStep(runner, self._memory, size)
                self._replays[size] = capture(step, pool)
                self._steps[size] = step
                count(1)
                taken_s, taken = time.perf_counter() - started, measure_reserved(device) - used
                if taken_s > MAX_CAPTURE_S or taken > MAX_GRAPH_BYTES:
                    logger.warning("decode steps of less than %d rows are not captured", size)
                    break
        logger.info(
            "decode steps of %s rows are captured: %.1f s, %d MiB",
            ", ".join(map(str, self.sizes)),
            taken_s,
            taken >> 20,
        )

    def launch(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[tuple[int, ...]],
        hidden: Tensor | None = None,
    ) -> Launched:
        """Start a step of some rows, without waiting for it.

        Each has a place in its text and a block table, and a token id (``FROM_LAST_STEP``: what the
        step before chose for this row), or hidden states [rows, hidden_size] on the CPU. Raises
        ValueError for a table that points outside the cache.

        Rows may be of one session, with the same table: the keys and values of all are stored
        before any row attends, and each attends to the text up to its own place.
        """
        count = len(positions)
        size = min(size for size in self._steps if size >= count)
        step, turn = self._steps[size], self._turn
        self._turn = 1 - turn
        # The card may still be reading what was staged two steps ago.
        self._copied[turn].wait()
        step.stage(turn, token_ids, positions, tables, hidden)
        self._copied[turn].set()
        self._replays[size]()
        return self._view(step, count)

    def _view(self, step: DecodeStep, count: int) -> Launched:
        memory = self._memory
        return Launched(
            memory.logits[:count],
            memory.largest[:count],
            memory.chosen[:count],
            memory.totals[:count],
            memory.hidden[:count],
            step.inputs.hidden[:count],
        )


class _Mark:
    """A point in the device's work that the CPU can wait for; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def set(self) -> None:
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def measure_reserved(device: torch.device) -> int:
    """Return the bytes that torch holds on a GPU; 0 on a CPU."""
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else 0


def capture(step: DecodeStep, pool: Any | None) -> Callable[[], None]:
    """Return what computes a step again; every row is padding while it is captured."""
    step.stage(0, (), (), (), None)
    if pool is None:
        return step.run
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            step.run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # A second engine in this process may launch work on the card during the capture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step.run()
    return graph.replay
