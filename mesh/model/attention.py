"""The paged cache of keys and values, and attention that reads it through block tables.

A session's tokens stand in pages of ``PAGE_TOKENS`` slots, wherever those are in the pool; its
block table names them in the order of its text. There are three implementations of
:class:`Attention`:

- :class:`AttentionBySession` attends each session alone, over its own keys and nothing else. Pages
  that lie side by side are read where they are, others are copied together. No session sees
  another's length, so a row has the same bits in a batch as alone. The CPU always uses this one.
- :class:`PaddedAttention` attends one row each of many sessions in one call, every session padded
  to the longest. A GPU, which waits for kernels to be launched, uses it for batches.
- PagedAttention in mesh/model/paged_attention.py does the same without padding and over tensors of
  fixed shapes, so that a GPU can replay it. Decode steps use it where there is Triton.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.capacity import PAGE_TOKENS, count_pages
from mesh.model.weights import ShardWeights


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one session within a step.

    ``first_row`` counts rows of the step; ``pages`` is the session's block table, which covers the
    rows; ``position`` is the first row's place in the session's text.
    """

    first_row: int
    rows: int
    pages: Sequence[int]
    position: int

    @property
    def length(self) -> int:
        """Tokens of the text that the last row attends to."""
        return self.position + self.rows


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer [kv_heads, slots, dim], and ``both``, one after the other."""

    both: Tensor
    keys: Tensor
    values: Tensor


class PagedCache:
    """Keys and values of every served layer in one pool, [kv_heads, token slots, head_dim] each.

    Slots ``[p * PAGE_TOKENS, (p + 1) * PAGE_TOKENS)`` are page ``p``. The pool holds whole pages.
    A scratch page follows the last one, if wanted: no session's table may name it.
    """

    def __init__(
        self, weights: ShardWeights, *, tokens: int, has_scratch_page: bool = False
    ) -> None:
        config = weights.config
        self.pages = self.scratch_page = count_pages(tokens)
        slots = (self.pages + has_scratch_page) * PAGE_TOKENS
        shape = (len(weights.layers), 2, config.num_kv_heads, slots, config.head_dim)
        self._start = weights.start
        self.slab = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        # Views made once: every step asks for those of every layer.
        self._layers = [LayerCache(pair.flatten(0, 1), pair[0], pair[1]) for pair in self.slab]

    def get_layer(self, layer: int) -> LayerCache:
        """Return keys and values of one layer, by its number in the model."""
        return self._layers[layer - self._start]

    def check_tables(self, segments: Sequence[Segment]) -> None:
        """Raise ValueError for a table that points outside the pool or is too short."""
        for segment in segments:
            table = segment.pages
            if len(table) * PAGE_TOKENS < segment.length:
                raise ValueError(f"{len(table)} pages do not hold {segment.length} tokens")
            if min(table) < 0 or max(table) >= self.pages:
                raise ValueError(f"a table points outside the {self.pages} pages")


class Attention(ABC):
    """What one step's attention needs in every layer: positions, cache slots, masks."""

    @abstractmethod
    def look_up(self, table: Tensor) -> Tensor:
        """Return the rows of ``table`` [positions, ...] that this step's tokens stand at."""

    @abstractmethod
    def store(self, cache: Tensor, rows: Tensor) -> None:
        """Put the step's ``rows`` [rows, n, dim] into ``cache`` [n, slots, dim]: keys and values of
        one layer, or either.
        """

    @abstractmethod
    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend the rows' ``queries`` [rows, heads, dim] to one layer's cache, where the rows are
        stored already, [kv_heads, slots, dim] each: [rows, heads * dim].
        """


class SegmentAttention(Attention):
    """What is made for the segments of one step."""

    def __init__(self, segments: Sequence[Segment], *, device: torch.device) -> None:
        self._segments = tuple(segments)
        only = self._segments[0] if len(self._segments) == 1 else None
        self._span = None if only is None else slice(only.position, only.length)
        self._slot_span = None if only is None else _find_slot_span(only)
        if self._span is None:
            positions = [p for s in segments for p in range(s.position, s.length)]
            self._positions = torch.tensor(positions, device=device)
        if self._slot_span is None:
            slots = [slot for segment in segments for slot in _list_slots(segment)]
            self._slots = torch.tensor(slots, device=device)

    def look_up(self, table: Tensor) -> Tensor:
        return table[self._positions if self._span is None else self._span]

    def store(self, cache: Tensor, rows: Tensor) -> None:
        new = rows.transpose(0, 1)
        if self._slot_span is None:
            cache.index_copy_(1, self._slots, new)
        else:
            cache[:, self._slot_span] = new


def make_attention(segments: Sequence[Segment], *, device: torch.device) -> Attention:
    """Return the implementation for one step on ``device``."""
    is_decode = len(segments) > 1 and all(segment.rows == 1 for segment in segments)
    kind = PaddedAttention if is_decode and device.type != "cpu" else AttentionBySession
    return kind(segments, device=device)


class AttentionBySession(SegmentAttention):
    """Each session alone over its own keys: nothing is padded and nothing is masked but the future.

    A session whose pages lie side by side is not copied.
    """

    def __init__(self, segments: Sequence[Segment], *, device: torch.device) -> None:
        super().__init__(segments, device=device)
        self._masks = [_make_causal_mask(segment, device) for segment in segments]
        self._runs = [_list_runs(segment) for segment in segments]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        is_cuda = queries.device.type == "cuda"
        outputs = [
            attend_text(
                queries[segment.first_row : segment.first_row + segment.rows],
                _gather(keys, runs),
                _gather(values, runs),
                mask=mask,
                is_fused=is_cuda and segment.position == 0 and segment.rows > 1,
            )
            for segment, runs, mask in zip(self._segments, self._runs, self._masks, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class PaddedAttention(SegmentAttention):
    """One row each of many sessions in one call, every session padded to the longest table."""

    def __init__(self, segments: Sequence[Segment], *, device: torch.device) -> None:
        super().__init__(segments, device=device)
        needed = [count_pages(segment.length) for segment in segments]
        most = max(needed)
        tables = [
            [*s.pages[:count], *[s.pages[0]] * (most - count)]
            for s, count in zip(segments, needed, strict=True)
        ]
        self._tables = torch.tensor(tables, device=device).flatten()
        lengths = torch.tensor([[segment.length] for segment in segments], device=device)
        is_text = torch.arange(most * PAGE_TOKENS, device=device) < lengths
        self._mask = is_text[:, None, None, :]
        self._padding = ~is_text[:, None, :, None]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, heads, dim = queries.shape
        kv_heads = keys.shape[0]
        mixed = F.scaled_dot_product_attention(
            queries.view(rows, kv_heads, heads // kv_heads, dim),
            self._gather(keys),
            self._gather(values),
            attn_mask=self._mask,
        )
        return mixed.reshape(rows, heads * dim)

    def _gather(self, cache: Tensor) -> Tensor:
        """Return every session's slots of ``cache``: [sessions, kv_heads, longest, dim].

        Padding is set to zero: it may hold what another session left there, and a number that is
        not finite would pass through any mask.
        """
        kv_heads, _, dim = cache.shape
        pages = cache.view(kv_heads, -1, PAGE_TOKENS, dim).index_select(1, self._tables)
        gathered = pages.view(kv_heads, len(self._segments), -1, dim).transpose(0, 1)
        return gathered.masked_fill_(self._padding, 0.0)


def _are_neighbours(pages: Sequence[int]) -> bool:
    """Whether pages lie side by side in this order."""
    return tuple(pages) == tuple(range(pages[0], pages[0] + len(pages)))


def _find_slot_span(segment: Segment) -> slice | None:
    """Return the slots of a segment's rows where they lie side by side, else None."""
    first, last = segment.position // PAGE_TOKENS, (segment.length - 1) // PAGE_TOKENS
    if first != last and not _are_neighbours(segment.pages[first : last + 1]):
        return None
    start = segment.pages[first] * PAGE_TOKENS + segment.position % PAGE_TOKENS
    return slice(start, start + segment.rows)


def _list_slots(segment: Segment) -> list[int]:
    """Return the cache slot of each row of a segment."""
    if segment.rows == 1:
        page, slot = divmod(segment.position, PAGE_TOKENS)
        return [segment.pages[page] * PAGE_TOKENS + slot]
    places = (divmod(p, PAGE_TOKENS) for p in range(segment.position, segment.length))
    return [segment.pages[page] * PAGE_TOKENS + slot for page, slot in places]


def _list_runs(segment: Segment) -> tuple[slice, ...]:
    """Return the slots of a session's text so far: as few slices as its pages allow."""
    count = count_pages(segment.length)
    first = segment.pages[0]
    if _are_neighbours(segment.pages[:count]):
        return (slice(first * PAGE_TOKENS, first * PAGE_TOKENS + segment.length),)
    runs: list[list[int]] = []
    for page in segment.pages[:count]:
        if runs and runs[-1][1] == page:
            runs[-1][1] = page + 1
        else:
            runs.append([page, page + 1])
    slots = [[start * PAGE_TOKENS, end * PAGE_TOKENS] for start, end in runs]
    slots[-1][1] -= -segment.length % PAGE_TOKENS
    return tuple(slice(start, end) for start, end in slots)


def _gather(cache: Tensor, runs: Sequence[slice]) -> Tensor:
    """Return the slots of ``cache`` [kv_heads, slots, dim]: a view if they lie side by side."""
    if len(runs) == 1:
        return cache[:, runs[0]]
    return torch.cat([cache[:, run] for run in runs], dim=1)


def _make_causal_mask(segment: Segment, device: torch.device) -> Tensor | None:
    """Bool [rows, position + rows]; None for a single row, which sees everything before it."""
    if segment.rows == 1:
        return None
    mask = torch.ones(segment.rows, segment.length, dtype=torch.bool, device=device)
    return mask.tril(diagonal=segment.position)


def attend_text(
    queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None, is_fused: bool
) -> Tensor:
    """Attention of one session's rows; ``is_fused`` is for the beginning of a text on a GPU, whose
    fastest kernel makes the causal mask itself.
    """
    if not is_fused:
        return attend_grouped(queries, keys, values, mask=mask)
    rows, heads, dim = queries.shape
    mixed = F.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        is_causal=True,
        enable_gqa=True,
    )
    return mixed[0].transpose(0, 1).reshape(rows, heads * dim)


def attend_grouped(queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None) -> Tensor:
    """Attention of queries [rows, heads, dim] over keys [kv_heads, length, dim].

    The heads that share a key-value head are laid along the query axis, so keys are never copied
    per head: [1, kv_heads, group * rows, dim] against [1, kv_heads, length, dim].
    """
    rows, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    if rows == 1:
        # Nothing to rearrange.
        grouped = queries.view(1, kv_heads, group, dim)
        mixed = F.scaled_dot_product_attention(grouped, keys.unsqueeze(0), values.unsqueeze(0))
        return mixed.reshape(1, heads * dim)
    grouped = queries.view(rows, kv_heads, group, dim).permute(1, 2, 0, 3)
    grouped = grouped.reshape(1, kv_heads, group * rows, dim)
    wide = mask if mask is None or group == 1 else mask.repeat(group, 1)
    mixed = F.scaled_dot_product_attention(
        grouped, keys.unsqueeze(0), values.unsqueeze(0), attn_mask=wide
    )
    mixed = mixed.view(kv_heads, group, rows, dim).permute(2, 0, 1, 3)
    return mixed.reshape(rows, heads * dim)
