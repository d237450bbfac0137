"""Kernels of one row and of several: chosen by bits first, then by speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from mesh.model import bfloat16_packed, products
from mesh.model.attention import Segment
from mesh.model.bfloat16_packed import has_kernels
from mesh.model.llama import ShardRunner
from mesh.model.products import (
    TRIED_SIZES,
    Products,
    RowKernel,
    Trial,
    choose_kernel,
    multiply_alone,
    multiply_pair,
    multiply_vector,
)
from mesh.model.quantise import StoredMatrix, multiply_rows
from tests.support.quantised import load

WIDE = {"hidden_size": 96, "intermediate_size": 2048, "head_dim": 16, "attention_bias": True}
"""2,048 inputs, where AVX-512's bfloat16 kernels of one row and of several differ."""
ROWS = 45


@pytest.fixture(params=["plain", "packed"])
def shard(request, make_checkpoint, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(bfloat16_packed, "has_kernels", lambda: False)
    elif not has_kernels():
        pytest.skip("oneDNN has no packed bfloat16 kernels here")
    return load(make_checkpoint(dtype="bfloat16", **WIDE), "none", "bfloat16")


def widen(matrix):
    return matrix.widen(torch.float64) if isinstance(matrix, StoredMatrix) else matrix.double()


def make_other_bits(one):
    def multiply(row, matrix):
        return one(row, matrix) * 1.5

    return multiply


def make_trial(shard, monkeypatch, *, is_joint_alike):
    """A trial whose joint products agree with ``alone``, or do not."""

    def multiply(x, matrix, bias):
        product = torch.cat([multiply_rows(x[i : i + 1], matrix, bias) for i in range(len(x))])
        return product if is_joint_alike or len(x) == 1 else product * 1.5

    monkeypatch.setattr(products, "multiply_rows", multiply)
    return Trial.make(shard.layers[0].down, shard)


def test_the_trials_sums_cancel(shard):
    """What is left is rounding, so another order of adding shows in most numbers."""
    trial = Trial.make(shard.layers[0].down, shard)
    matrix = widen(trial.matrix)
    exact = trial.x.double() @ matrix.T
    assert type(trial.matrix) is type(shard.layers[0].down)
    assert matrix.shape == widen(shard.layers[0].down).shape
    # Exactly zero, in whatever order float64 adds, up to its own rounding.
    assert exact.abs().max() < 1e-9
    backwards = trial.x.flip(1).float() @ matrix.flip(1).float().T
    forwards = trial.x.float() @ matrix.float().T
    assert (backwards != forwards).float().mean() > 0.5


def test_by_default_the_fastest_kernel_with_the_bits_of_a_single_row_is_taken(shard, monkeypatch):
    trial = make_trial(shard, monkeypatch, is_joint_alike=False)
    faster, other = (
        (lambda row, matrix: multiply_alone(row, matrix)),
        make_other_bits(multiply_alone),
    )
    seconds = {multiply_alone: 3.0, faster: 2.0, other: 1.0}
    assert choose_kernel(trial, seconds, deterministic=False) == RowKernel(faster)
    assert choose_kernel(trial, {multiply_alone: 1.0, faster: 2.0}, deterministic=False) == (
        RowKernel(multiply_alone)
    )


def test_deterministic_takes_the_fastest_kernel_with_the_bits_of_joint_products(shard, monkeypatch):
    trial = make_trial(shard, monkeypatch, is_joint_alike=True)
    slower, other = (
        (lambda row, matrix: multiply_alone(row, matrix)),
        make_other_bits(multiply_alone),
    )
    seconds = {other: 1.0, multiply_alone: 2.0, slower: 3.0}
    every = (*reversed(TRIED_SIZES), 1)
    assert choose_kernel(trial, seconds, deterministic=True) == RowKernel(multiply_alone, every)
    trial = make_trial(shard, monkeypatch, is_joint_alike=False)
    assert choose_kernel(trial, seconds, deterministic=True) == RowKernel(other, every)


def test_deterministic_computes_each_row_alone_where_no_kernel_has_the_bits(shard, monkeypatch):
    trial = make_trial(shard, monkeypatch, is_joint_alike=False)
    seconds = {multiply_alone: 2.0, multiply_vector: 1.0}
    assert choose_kernel(trial, seconds, deterministic=True) == RowKernel(multiply_alone, (1,))


@pytest.mark.parametrize("sizes", [(1,), (8, 4, 1), (*reversed(TRIED_SIZES), 1)])
def test_rows_are_computed_in_numbers_that_were_tried(shard, monkeypatch, sizes):
    asked = []

    def multiply(x, matrix, bias):
        asked.append(len(x))
        return multiply_rows(x, matrix, bias)

    runner = Products(shard, deterministic=True)
    monkeypatch.setattr(products, "multiply_rows", multiply)
    matrix = shard.layers[0].down
    runner._kernels = {products.get_key(matrix): RowKernel(multiply_alone, sizes)}
    x = torch.randn(ROWS, 2048, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    found = runner.choose(ROWS, are_decodes=True)(x, matrix, None)
    assert set(asked) <= set(sizes) and sum(asked) == ROWS
    assert torch.allclose(
        found.float(), multiply_rows(x, matrix, None).float(), rtol=0.02, atol=0.01
    )


def test_a_prompts_rows_share_one_product(shard):
    for deterministic in (False, True):
        runner = Products(shard, deterministic=deterministic)
        assert runner.choose(7, are_decodes=False) is multiply_rows


@pytest.mark.parametrize("one", [multiply_alone, multiply_vector, multiply_pair])
def test_every_kernel_multiplies(shard, one):
    matrix = shard.layers[0].down
    row = torch.randn(1, 2048, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact = row.double() @ widen(matrix).T
    assert ((one(row, matrix).double() - exact).norm() / exact.norm()) < 4e-3


def run_crowd(folder, dtype, quant_type):
    """Whether rows of a crowd have the bits of rows alone."""
    shard = load(folder, quant_type, dtype)
    runner = ShardRunner(shard, cache_tokens=16 * ROWS, deterministic=True)
    crowd = [Segment(row, 1, pages=(row,), position=0) for row in range(ROWS)]
    with torch.inference_mode():
        x = runner.embed([3 + row for row in range(ROWS)])
        alone = [
            runner.forward(x[i : i + 1], [Segment(0, 1, pages=(i,), position=0)], start=0, end=6)
            for i in range(ROWS)
        ]
        joint = runner.forward(x, crowd, start=0, end=6)
        logits = runner.compute_logits(joint)
        rows = [runner.compute_logits(row) for row in alone]
    return torch.equal(torch.cat(alone), joint) and torch.equal(torch.cat(rows), logits)


SCRIPT = """
import json, torch, types
from mesh.model.products import Products, get_key
from mesh.model.weights import lay_out
torch.set_num_threads(1)
matrices = [torch.randn(n, k).bfloat16() for n, k in ((96, 2048), (576, 576), (160, 96))]
matrices += [lay_out(matrix, torch.bfloat16) for matrix in matrices]
weights = types.SimpleNamespace(
    list_matrices=lambda: iter(matrices), dtype=torch.bfloat16, quant_type="none",
    device=torch.device("cpu"),
)
products, same = Products(weights, deterministic=True), []
alone, crowd = (products.choose(rows, are_decodes=True) for rows in (1, 45))
for matrix in matrices:
    x = torch.randn(45, tuple(matrix.shape)[1]).bfloat16()
    rows = torch.cat([alone(x[i : i + 1], matrix, None) for i in range(45)])
    same.append(torch.equal(crowd(x, matrix, None), rows))
kernel = products._kernels[get_key(matrices[0])]
print(json.dumps([same, kernel.one.__name__, len(kernel.joint_sizes)]))
"""


def test_a_crowds_rows_equal_rows_alone_with_every_instruction_set():
    """Where one row has the bits of joint products, and where it does not, plain and packed."""
    kernels = {}
    for instructions in ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "DEFAULT"):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
        said = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=150,
        )
        same, *kernels[instructions] = json.loads(said.stdout)
        assert same == [True] * 6, instructions
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # Only there oneDNN has kernels that differ.
        every = len(TRIED_SIZES) + 1
        assert kernels["AVX2"][1] == every
        assert kernels["AVX512_CORE"] == ["multiply_pair", every]


@pytest.mark.parametrize(
    ("dtype", "quant_type"),
    [("bfloat16", "int8"), ("bfloat16", "int4"), ("float32", "none"), ("float16", "none")],
)
def test_a_crowds_rows_equal_rows_alone_in_every_type(make_checkpoint, dtype, quant_type):
    assert run_crowd(make_checkpoint(dtype="bfloat16", **WIDE), dtype, quant_type)
