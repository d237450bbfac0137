"""The number of threads may change where a trial shows that it changes no bit."""

from __future__ import annotations

import pytest
import torch

from mesh.model import thread_bits
from mesh.model.attention import Segment, attend_text
from mesh.model.llama import ShardRunner
from mesh.model.products import Products
from tests.support.quantised import load

ROWS = 5
THREADS = (1, 2, 3)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_runner(make_checkpoint, dtype, quant_type, *, deterministic):
    shard = load(make_checkpoint(dtype=dtype), quant_type, dtype)
    return ShardRunner(shard, cache_tokens=64 * ROWS, deterministic=deterministic)


@torch.inference_mode()
def compute_steps(runner, threads):
    """Return the logits of rows alone and together, after a text that one thread computed."""
    torch.set_num_threads(1)
    tables = [range(4 * row, 4 * row + 4) for row in range(ROWS)]
    for row, pages in enumerate(tables):
        text = [3 + (7 * i + row) % 90 for i in range(40)]
        runner.forward(runner.embed(text), [Segment(0, 40, pages, 0)], start=0, end=6)
    torch.set_num_threads(threads)
    found = []
    for rows in range(1, ROWS + 1):
        segments = [Segment(row, 1, tables[row], 40) for row in range(rows)]
        x = runner.forward(runner.embed([5 + r for r in range(rows)]), segments, start=0, end=6)
        found.append(runner.compute_logits(x))
    return torch.cat(found)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("dtype", "quant_type"),
    [("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4")],
)
def test_steps_have_equal_bits_where_the_trial_says_so(
    make_checkpoint, dtype, quant_type, deterministic
):
    runner = make_runner(make_checkpoint, dtype, quant_type, deterministic=deterministic)
    if not runner.keeps_bits(THREADS):
        pytest.skip("another number of threads gives other bits on this processor")
    expected = compute_steps(runner, 1)
    for number in THREADS[1:]:
        assert torch.equal(compute_steps(runner, number), expected)


def test_attention_with_other_bits_is_enough(make_checkpoint, monkeypatch):
    """torch's attention in float32 adds otherwise with one thread than with several."""
    runner = make_runner(make_checkpoint, "bfloat16", "none", deterministic=True)

    def attend(*arguments, **options):
        mixed = attend_text(*arguments, **options)
        return mixed * 1.5 if torch.get_num_threads() == 2 else mixed

    monkeypatch.setattr(thread_bits, "attend_text", attend)
    torch.set_num_threads(3)
    assert runner.keeps_bits((1, 3)) and not runner.keeps_bits((1, 2))
    assert torch.get_num_threads() == 3


def test_one_product_with_other_bits_is_enough(make_checkpoint, monkeypatch):
    shard = load(make_checkpoint(dtype="bfloat16"), "none", "bfloat16")
    products = Products(shard, deterministic=True)
    multiply_rows = Products._multiply_alike

    def multiply(self, x, matrix, bias):
        product = multiply_rows(self, x, matrix, bias)
        return product * 1.5 if torch.get_num_threads() == 2 and len(x) == 7 else product

    monkeypatch.setattr(Products, "_multiply_alike", multiply)
    torch.set_num_threads(3)
    assert thread_bits.keeps_bits(shard, products, (1, 3)) and not thread_bits.keeps_bits(
        shard, products, (1, 2)
    )
    assert torch.get_num_threads() == 3
