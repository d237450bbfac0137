"""Attention of one row each of many sessions, over tensors of fixed shapes.

A CUDA graph replays the same kernels over the same memory, so nothing here depends on how long a
text is or on how many sessions there are. Rows that belong to no session have length 1 and a
*scratch page*, which is no session's.

**Algorithm.** The tokens of a text are read in blocks of ``BLOCK_TOKENS`` through its table. A
running maximum, a running sum and a running mix are corrected whenever a block has a larger score
(online softmax). A row reads its own text in its own order, so its bits do not depend on the
others. On CUDA that is one Triton kernel (mesh/model/paged_kernel.py), on the CPU the same steps in
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self

import torch
from torch import Tensor

from mesh.model.attention import Attention, Segment
from mesh.model.capacity import PAGE_TOKENS

BLOCK_TOKENS = 64


def has_triton() -> bool:
    """Whether triton is installed; it comes with torch's builds for CUDA on Linux."""
    return find_spec("triton") is not None


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Where the rows of a step stand: tensors on one device.

    ``positions`` int64 [rows] in their texts, ``slots`` int64 [rows] of the cache that they are
    written to, ``lengths`` int32 [rows] of the texts with them, and ``tables`` int32 [pages, rows]:
    a column is a session's block table, of which what the length does not reach is never read.
    """

    positions: Tensor
    slots: Tensor
    lengths: Tensor
    tables: Tensor

    @classmethod
    def from_segments(cls, segments: Sequence[Segment], *, device: torch.device) -> Self:
        """Return the rows of segments of one row each."""
        positions = [segment.position for segment in segments]
        places = [divmod(segment.position, PAGE_TOKENS) for segment in segments]
        slots = [
            segment.pages[page] * PAGE_TOKENS + slot
            for segment, (page, slot) in zip(segments, places, strict=True)
        ]
        tables = torch.zeros(max(page for page, _ in places) + 1, len(segments), dtype=torch.int32)
        for row, (segment, (page, _)) in enumerate(zip(segments, places, strict=True)):
            tables[: page + 1, row] = torch.tensor([*segment.pages[: page + 1]])
        lengths = torch.tensor([position + 1 for position in positions], dtype=torch.int32)
        parts = (torch.tensor(positions), torch.tensor(slots), lengths, tables)
        return cls(*(part.to(device) for part in parts))


class PagedAttention(Attention):
    """One row each of many sessions, each through its table, nothing padded and nothing copied."""

    def __init__(self, rows: DecodeRows) -> None:
        self._rows = rows

    def look_up(self, table: Tensor) -> Tensor:
        return table[self._rows.positions]

    def store(self, cache: Tensor, rows: Tensor) -> None:
        cache.index_copy_(1, self._rows.slots, rows.transpose(0, 1))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        tables, lengths = self._rows.tables, self._rows.lengths
        if queries.device.type != "cuda":
            return attend_pages(queries, keys, values, tables, lengths)
        # triton is there on CUDA only.
        from mesh.model import paged_kernel

        return paged_kernel.attend_pages(queries, keys, values, tables, lengths, block=BLOCK_TOKENS)


def attend_pages(
    queries: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor
) -> Tensor:
    """Attend ``queries`` [rows, heads, dim] to the texts in ``keys`` and ``values`` [kv_heads,
    slots, dim] that ``tables`` and ``lengths`` name: [rows, heads * dim], in the queries' type.
    """
    rows, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    shape = (rows, kv_heads, heads // kv_heads)
    grouped = queries.reshape(*shape, dim).float()
    largest = torch.full(shape, -torch.inf, device=queries.device)
    total = torch.zeros(shape, device=queries.device)
    mix = torch.zeros(*shape, dim, device=queries.device)
    for start in range(0, int(lengths.max()), BLOCK_TOKENS):
        key, value, is_text = _read_block(keys, values, tables, lengths, start)
        score = grouped @ key.float().mT * dim**-0.5
        score = score.masked_fill(~is_text[:, None, None, :], -torch.inf)
        new_largest = torch.maximum(largest, score.amax(-1))
        shrink = (largest - new_largest).exp()
        weight = (score - new_largest.unsqueeze(-1)).exp()
        total = total * shrink + weight.sum(-1)
        mix = mix * shrink.unsqueeze(-1) + weight.to(value.dtype).float() @ value.float()
        largest = new_largest
    return (mix / total.unsqueeze(-1)).to(queries.dtype).reshape(rows, heads * dim)


def _read_block(
    keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values of one block of each text, [rows, kv_heads, BLOCK_TOKENS, dim], and
    which tokens of it there are, [rows, BLOCK_TOKENS]; the others are read as zeros.
    """
    positions = torch.arange(start, start + BLOCK_TOKENS, device=keys.device)
    is_text = positions < lengths.unsqueeze(1)
    places = (positions // PAGE_TOKENS).clamp_(max=tables.shape[0] - 1)
    pages = torch.where(is_text, tables[places].T, 0)
    slots = pages * PAGE_TOKENS + positions % PAGE_TOKENS

    def read(cache: Tensor) -> Tensor:
        return cache[:, slots].transpose(0, 1).masked_fill(~is_text[:, None, :, None], 0.0)

    return read(keys), read(values), is_text
