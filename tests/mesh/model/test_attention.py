"""One contract for all ways to read the paged cache, and what a table may not do."""

from __future__ import annotations

import math

import pytest
import torch

from mesh.model.attention import (
    AttentionBySession,
    PaddedAttention,
    PagedCache,
    Segment,
    attend_grouped,
    attend_text,
    make_attention,
)
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.paged_attention import BLOCK_TOKENS, DecodeRows, PagedAttention, has_triton
from mesh.model.weights import load_shard

CPU = torch.device("cpu")
KV_HEADS, GROUP, DIM, PAGES = 2, 3, 16, 12
TABLES = ((5,), (2, 9, 3), (7, 8), (11, 0, 6, 1))
LENGTHS = (1, 40, 32, 49)
"""Tokens of each session, the row that attends included: pages are begun, full or just full."""
LONG_TABLES = ((5,), (2, 9, 3, 10, 4), (7, 8, 11, 0))
LONG_LENGTHS = (1, 2 * PAGE_TOKENS + BLOCK_TOKENS - 17, BLOCK_TOKENS)
"""Blocks of the kernel are begun, full or just full."""


def make_paged(segments, *, device):
    return PagedAttention(DecodeRows.from_segments(segments, device=device))


KINDS = [
    pytest.param(AttentionBySession, CPU, id="by session"),
    pytest.param(PaddedAttention, CPU, id="padded"),
    pytest.param(make_paged, CPU, id="paged"),
    pytest.param(
        make_paged,
        torch.device("cuda"),
        id="paged by triton",
        marks=pytest.mark.skipif(
            not (torch.cuda.is_available() and has_triton()),
            reason="the kernel needs a CUDA device and triton",
        ),
    ),
]


def make_pool():
    """Every slot that no text uses holds what must not be read."""
    return [torch.full((KV_HEADS, PAGES * PAGE_TOKENS, DIM), math.nan) for _ in range(2)]


def fill(pool, texts, tables):
    """Put keys and values of each text, [2, KV_HEADS, tokens, DIM], where its table says."""
    for text, table in zip(texts, tables, strict=True):
        for place in range(text.shape[2]):
            slot = table[place // PAGE_TOKENS] * PAGE_TOKENS + place % PAGE_TOKENS
            for kept, part in zip(pool, text, strict=True):
                kept[:, slot] = part[:, place]


def make_texts(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(2, KV_HEADS, length, DIM, generator=generator) for length in lengths]


def make_queries(rows):
    return torch.randn(rows, KV_HEADS * GROUP, DIM, generator=torch.Generator().manual_seed(5))


def decode(kind, device, texts, tables, *, dtype=torch.float32):
    """Attend the last token of each text, which is stored first."""
    texts = [text.to(dtype) for text in texts]
    pool = [part.to(dtype) for part in make_pool()]
    fill(pool, [text[:, :, :-1] for text in texts], tables)
    pool = [part.to(device) for part in pool]
    segments = [Segment(i, 1, tables[i], texts[i].shape[2] - 1) for i in range(len(texts))]
    attention = kind(segments, device=device)
    for kept, part in zip(pool, (0, 1), strict=True):
        attention.store(kept, torch.stack([text[part, :, -1] for text in texts]).to(device))
    queries = make_queries(len(texts)).to(device, dtype)
    return queries.cpu(), attention.attend(queries, *pool).cpu()


@pytest.mark.parametrize(("kind", "device"), KINDS)
@pytest.mark.parametrize(
    ("lengths", "tables"), [(LENGTHS, TABLES), (LONG_LENGTHS, LONG_TABLES)], ids=["short", "long"]
)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_decode_rows_attend_to_their_own_text_and_nothing_else(
    kind, device, lengths, tables, dtype, atol
):
    texts = make_texts(lengths)
    queries, found = decode(kind, device, texts, tables, dtype=dtype)
    assert found.dtype == dtype
    for row, text in enumerate(texts):
        wide = text.to(dtype).float()
        expected = attend_grouped(queries[row : row + 1].float(), *wide, mask=None)
        assert torch.allclose(found[row].float(), expected[0], atol=atol)


@pytest.mark.parametrize(("kind", "device"), KINDS)
def test_positions_are_looked_up_for_each_row(kind, device):
    segments = [Segment(i, 1, TABLES[i], LENGTHS[i] - 1) for i in range(len(LENGTHS))]
    table = torch.arange(100, device=device).unsqueeze(1).expand(-1, 3)
    found = kind(segments, device=device).look_up(table)
    assert found[:, 0].tolist() == [length - 1 for length in LENGTHS]


@pytest.mark.parametrize(("kind", "device"), KINDS[2:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_a_paged_step_has_the_same_bits_beside_any_others(kind, device, dtype):
    texts = make_texts(LONG_LENGTHS)
    _, together = decode(kind, device, texts, LONG_TABLES, dtype=dtype)
    for order in ((1, 0, 2), (2, 1, 1), (1, 1, 1)):
        chosen = [texts[i] for i in order]
        # Equal texts stand in the same pages; the query of a row belongs to its place.
        _, found = decode(kind, device, chosen, [LONG_TABLES[i] for i in order], dtype=dtype)
        for row, place in enumerate(order):
            if row == place:
                assert torch.equal(found[row], together[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 20])
def test_scattered_pages_give_the_same_bits_as_neighbours(dtype, rows):
    text = make_texts()[3].to(dtype)
    queries = make_queries(rows).to(dtype)
    found = []
    for table in ((3, 4, 5, 6), (11, 0, 6, 1), (4, 5, 2, 3)):
        pool = [part.to(dtype) for part in make_pool()]
        fill(pool, [text[:, :, :-rows]], [table])
        attention = AttentionBySession([Segment(0, rows, table, 49 - rows)], device=CPU)
        for kept, part in zip(pool, text, strict=True):
            attention.store(kept, part[:, -rows:].transpose(0, 1))
        found.append(attention.attend(queries, *pool))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_cpu_attends_session_by_session_and_a_gpu_pads_decode_rows_only():
    decodes = [Segment(i, 1, TABLES[i], 0) for i in range(2)]
    assert isinstance(make_attention(decodes, device=CPU), AttentionBySession)
    meta = torch.device("meta")
    assert isinstance(make_attention(decodes, device=meta), PaddedAttention)
    prompt = [Segment(0, 3, TABLES[1], 0)]
    assert isinstance(make_attention(prompt, device=meta), AttentionBySession)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(0, 1, (0, 4), 3),
        Segment(0, 1, (-1,), 3),
        Segment(0, 2, (0,), PAGE_TOKENS - 1),
        Segment(0, 1, (), 0),
    ],
)
def test_a_table_that_points_outside_or_is_too_short_is_refused(make_checkpoint, segment):
    folder = make_checkpoint()
    shard = load_shard(resolve_model_folder(str(folder)), load_config(folder), start=2, end=3)
    cache = PagedCache(shard, tokens=50)
    cache.check_tables([Segment(0, 1, (0, 3), PAGE_TOKENS)])
    with pytest.raises(ValueError, match="page"):
        cache.check_tables([Segment(0, 1, (1,), 0), segment])


def test_the_kernel_that_masks_by_itself_attends_like_the_other():
    keys, values = make_texts()[3]
    queries = make_queries(49)
    mask = torch.ones(49, 49, dtype=torch.bool).tril()
    plain, fused = (
        attend_text(queries, keys, values, mask=mask, is_fused=fused) for fused in (False, True)
    )
    assert torch.allclose(plain, fused, atol=1e-6)
