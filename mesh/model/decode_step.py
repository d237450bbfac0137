"""One decode step of a fixed number of rows, over memory that never moves.

A CUDA graph replays kernels with the addresses that they were captured with. So every input and
output of a step stands in a buffer of its own, and a step of ``size`` rows always computes ``size``
rows: those that no session asked for read and write the scratch page of the cache.

**One copy in.** The inputs of a step lie one after the other in a block of bytes: token ids,
positions, slots, lengths, hidden states, and last the tables, place by place, so that the copy ends
with the longest table in use. Two blocks on the CPU take turns: the next step is prepared while the
card may still read the last one's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mesh.model.capacity import PAGE_TOKENS, count_pages
from mesh.model.llama import ShardRunner
from mesh.model.paged_attention import DecodeRows, PagedAttention

FROM_LAST_STEP = -1
"""The token id of a row that takes the token which the step before chose for it."""
MAX_KEPT_TABLES = 1024
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs of ``size`` rows as views of one block of bytes; ``tables`` come last."""

    token_ids: Tensor
    rows: DecodeRows
    hidden: Tensor
    tables_start: int

    @classmethod
    def cut(
        cls, block: Tensor, *, size: int, width: int, hidden_size: int, dtype: torch.dtype
    ) -> Layout:
        """Return the views of a block of uint8; ``hidden_size`` 0 is for rows of token ids."""
        shapes = (
            ((size,), torch.int64),
            ((size,), torch.int64),
            ((size,), torch.int64),
            ((size,), torch.int32),
            ((size, hidden_size), dtype),
            ((width, size), torch.int32),
        )
        views, start = [], 0
        for shape, kind in shapes:
            tables_start = start
            end = start + math.prod(shape) * kind.itemsize
            views.append(block[start:end].view(kind).view(shape))
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
        token_ids, positions, slots, lengths, hidden, tables = views
        return cls(token_ids, DecodeRows(positions, slots, lengths, tables), hidden, tables_start)


def compute_block_bytes(*, size: int, width: int, hidden_size: int, dtype: torch.dtype) -> int:
    """Return the bytes that :meth:`Layout.cut` needs at most."""
    numbers = size * (3 * 8 + 4) + size * hidden_size * dtype.itemsize + width * size * 4
    return numbers + 6 * _ALIGNMENT


class StepMemory:
    """The inputs and outputs that the steps of all sizes share, on the shard's device.

    ``chosen`` int64 [rows] holds the last step's tokens, which the next one may start with.
    """

    def __init__(self, runner: ShardRunner, *, max_rows: int) -> None:
        weights = runner.weights
        config, device = weights.config, weights.device
        self.max_rows = max_rows
        self.width = min(count_pages(config.max_context), runner.cache.pages)
        self.hidden_size = config.hidden_size if weights.start else 0
        self.dtype = weights.dtype
        is_cuda = device.type == "cuda"
        size = self._count_bytes()
        self.block = torch.zeros(size, dtype=torch.uint8, device=device)
        self.staging = [torch.zeros(size, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
        is_last = weights.end == config.num_layers
        vocabulary = config.vocab_size if is_last else 0
        self.logits = torch.zeros(max_rows, vocabulary, device=device)
        self.largest = torch.zeros(max_rows, device=device)
        self.totals = torch.zeros(max_rows, device=device)
        self.chosen = torch.zeros(max_rows, dtype=torch.int64, device=device)
        width = 0 if is_last else config.hidden_size
        self.hidden = torch.zeros(max_rows, width, dtype=weights.dtype, device=device)

    def _count_bytes(self) -> int:
        return compute_block_bytes(
            size=self.max_rows, width=self.width, hidden_size=self.hidden_size, dtype=self.dtype
        )

    def cut(self, block: Tensor, size: int) -> Layout:
        """Return the inputs of a step in a block, here or on the CPU."""
        return Layout.cut(
            block, size=size, width=self.width, hidden_size=self.hidden_size, dtype=self.dtype
        )


class DecodeStep:
    """The kernels of one step of ``size`` rows through all layers of a shard."""

    def __init__(self, runner: ShardRunner, memory: StepMemory, size: int) -> None:
        self.size = size
        self._runner = runner
        self._memory = memory
        self.inputs = memory.cut(memory.block, size)
        self._staged = [
            StagedRows(memory.cut(block, size), scratch_page=runner.cache.scratch_page)
            for block in memory.staging
        ]

    def stage(
        self,
        turn: int,
        token_ids: Sequence[int],
        positions: Sequence[int],
        tables: Sequence[tuple[int, ...]],
        hidden: Tensor | None,
    ) -> None:
        """Copy the inputs of some rows to the device; the others are padding.

        Raises ValueError for a table that points outside the cache or is too short.
        """
        columns = [_make_column(table, self._runner.cache.pages) for table in tables]
        end = self._staged[turn].write(token_ids, positions, columns, hidden)
        block = self._memory.staging[turn]
        self._memory.block[:end].copy_(block[:end], non_blocking=True)

    def run(self) -> None:
        """Launch every kernel of the step; a graph is captured from this."""
        memory, runner, size = self._memory, self._runner, self.size
        weights = runner.weights
        x = self.inputs.hidden
        if weights.embedding is not None:
            staged = self.inputs.token_ids
            ids = torch.where(staged == FROM_LAST_STEP, memory.chosen[:size], staged)
            x = F.embedding(ids, weights.embedding)
        x = runner.run_layers(x, PagedAttention(self.inputs.rows))
        if weights.head is None:
            memory.hidden[:size].copy_(x)
            return
        logits = memory.logits[:size].copy_(runner.compute_logits(x))
        torch.max(logits, dim=-1, out=(memory.largest[:size], memory.chosen[:size]))
        torch.logsumexp(logits, dim=-1, out=memory.totals[:size])


class StagedRows:
    """The inputs of a step in one block on the CPU, written through numpy."""

    def __init__(self, inputs: Layout, *, scratch_page: int) -> None:
        self._inputs = inputs
        self._scratch_page = scratch_page
        self._token_ids: NDArray[np.int64] = inputs.token_ids.numpy()
        self._positions: NDArray[np.int64] = inputs.rows.positions.numpy()
        self._slots: NDArray[np.int64] = inputs.rows.slots.numpy()
        self._lengths: NDArray[np.int32] = inputs.rows.lengths.numpy()
        self._tables: NDArray[np.int32] = inputs.rows.tables.numpy()

    def write(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        columns: Sequence[NDArray[np.int32]],
        hidden: Tensor | None,
    ) -> int:
        """Write the rows and the padding after them; return where the bytes in use end."""
        count, size = len(positions), len(self._positions)
        self._token_ids[:count], self._token_ids[count:] = token_ids, 0
        self._positions[:count], self._positions[count:] = positions, 0
        np.add(self._positions, 1, out=self._lengths, casting="same_kind")
        self._tables[0] = self._scratch_page
        for row, (column, position) in enumerate(zip(columns, positions, strict=True)):
            if len(column) * PAGE_TOKENS <= position:
                raise ValueError(f"{len(column)} pages do not hold {position + 1} tokens")
            self._tables[: len(column), row] = column
        pages, slots = np.divmod(self._positions, PAGE_TOKENS)
        self._slots[:] = self._tables[pages, np.arange(size)] * PAGE_TOKENS + slots
        if self._inputs.hidden.shape[1]:
            self._inputs.hidden[count:] = 0.0
            if hidden is not None:
                self._inputs.hidden[:count].copy_(hidden)
        places = max((len(column) for column in columns), default=1)
        return self._inputs.tables_start + places * size * self._tables.itemsize


@lru_cache(maxsize=MAX_KEPT_TABLES)
def _make_column(table: tuple[int, ...], pages: int) -> NDArray[np.int32]:
    """Return a block table as numbers; most steps of a session have the one of the step before.

    Raises ValueError for a table that points outside.
    """
    if not table or min(table) < 0 or max(table) >= pages:
        raise ValueError(f"a table points outside the {pages} pages")
    return np.array(table, dtype=np.int32)
