"""The Triton kernel of paged attention for one row each of many sessions.

Imported only on CUDA, where triton comes with torch. mesh/model/paged_attention.py has the same
algorithm in torch; its tests are this kernel's, too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mesh.model.capacity import PAGE_TOKENS

MIN_GROUP = 16
"""The smallest side of a product of two tiles."""
WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    tables,
    lengths,
    mixed,
    scale,
    row_stride,
    head_stride,
    mixed_row_stride,
    cache_stride,
    slot_stride,
    table_stride,
    GROUP: tl.constexpr,
    WIDE_GROUP: tl.constexpr,
    DIM: tl.constexpr,
    WIDE_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each row and each key-value head: the heads that share it, together."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    member = tl.arange(0, WIDE_GROUP)
    place = tl.arange(0, WIDE_DIM)
    token = tl.arange(0, BLOCK)
    is_head = (member[:, None] < GROUP) & (place[None, :] < DIM)
    head = kv_head * GROUP + member[:, None]
    query_at = queries + row * row_stride + head * head_stride + place[None, :]
    query = tl.load(query_at, mask=is_head, other=0.0)
    length = tl.load(lengths + row)
    largest = tl.full((WIDE_GROUP,), -float("inf"), tl.float32)
    total = tl.zeros((WIDE_GROUP,), tl.float32)
    mix = tl.zeros((WIDE_GROUP, WIDE_DIM), tl.float32)
    for start in range(0, length, BLOCK):
        position = start + token
        is_text = position < length
        page = tl.load(tables + (position // PAGE) * table_stride + row, mask=is_text, other=0)
        slot = page.to(tl.int64) * PAGE + position % PAGE
        where = kv_head * cache_stride + slot[:, None] * slot_stride + place[None, :]
        is_read = is_text[:, None] & (place[None, :] < DIM)
        key = tl.load(keys + where, mask=is_read, other=0.0)
        value = tl.load(values + where, mask=is_read, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(is_text[None, :], score, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        shrink = tl.exp(largest - new_largest)
        weight = tl.exp(score - new_largest[:, None])
        total = total * shrink + tl.sum(weight, 1)
        mix = mix * shrink[:, None]
        mix += tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        largest = new_largest
    mix = mix / total[:, None]
    mixed_at = mixed + row * mixed_row_stride + head * DIM + place[None, :]
    tl.store(mixed_at, mix.to(mixed.dtype.element_ty), mask=is_head)


def attend_pages(
    queries: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, *, block: int
) -> Tensor:
    """Attend ``queries`` [rows, heads, dim], as mesh.model.paged_attention does in torch.

    The numbers of a head lie side by side; rows may be further apart.
    """
    rows, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    group = heads // kv_heads
    mixed = torch.empty(rows, heads * dim, dtype=queries.dtype, device=queries.device)
    _attend[(rows, kv_heads)](
        queries,
        keys,
        values,
        tables,
        lengths,
        mixed,
        dim**-0.5,
        queries.stride(0),
        queries.stride(1),
        mixed.stride(0),
        keys.stride(0),
        keys.stride(1),
        tables.stride(0),
        GROUP=group,
        WIDE_GROUP=max(MIN_GROUP, triton.next_power_of_2(group)),
        DIM=dim,
        WIDE_DIM=max(MIN_GROUP, triton.next_power_of_2(dim)),
        PAGE=PAGE_TOKENS,
        BLOCK=block,
        num_warps=WARPS,
    )
    return mixed
