"""int4 weights: a rule to the bit, values that are bfloat16 numbers, and torch's packed kernel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesh.errors import ManifestMismatch, ModelError
from mesh.model import int4_packed
from mesh.model.challenge import run_challenge_head, run_challenge_layer
from mesh.model.int4 import Int4Matrix, quantise_int4
from mesh.model.int4_packed import (
    PackedInt4Matrix,
    can_pack,
    find_order,
    has_kernel,
    multiply_packed,
    pack,
)
from mesh.model.tensors import EMBEDDING, HEAD
from tests.support.quantised import check, load, make_manifest, measure_distance, run

WIDE = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 16, "vocab_size": 272}
"""A shape whose matrices torch's kernel takes."""
SHAPES = [(16, 64), (48, 96), (64, 192), (112, 64), (1040, 96), (2112, 32)]

needs_kernel = pytest.mark.skipif(not has_kernel(), reason="torch has no int4 kernel here")


def draw(outputs, inputs, seed=3):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def test_the_rules_of_quantisation_are_fixed():
    """The largest number is -8 steps, of two the negative one; halves to even; 7 is the most."""
    row = torch.zeros(32)
    row[:5] = torch.tensor([8.0, -8.0, 2.5, -3.5, 0.25])
    positive = torch.zeros(32)
    positive[:3] = torch.tensor([16.0, -16.0 + 2.0**-10, 3.0])
    rounded = torch.zeros(32)
    # 8 * (1 + 1/16 + 1/32): the scale has six significant bits, and the half goes away from zero.
    rounded[0] = -8.0 * (1 + 1 / 16 + 1 / 32)
    tiny = torch.full((32,), 2.0**-99)
    found = quantise_int4(torch.stack([row, positive, rounded, tiny, torch.zeros(32)]))
    steps = found.unpack()
    assert steps[0, :6].tolist() == [7, -8, 2, -4, 0, 0]
    assert steps[1, :4].tolist() == [-8, 7, -2, 0]
    assert found.scales.tolist() == [[1.0], [-2.0], [1.125], [1.0], [1.0]]
    assert steps[2, 0] == -8
    assert not steps[3:].any()


def test_the_hash_is_of_nibbles_by_rows_and_scales():
    matrix = quantise_int4(draw(3, 70))
    steps = matrix.unpack().numpy() + 8
    # 70 is no multiple of 64: groups of 32, and the last one filled up with zeros.
    assert steps.shape == (3, 96) and (steps[:, 70:] == 8).all()
    expected = hashlib.sha256(b"mesh/tensor/int4")
    expected.update((steps[:, 0::2] | steps[:, 1::2] << 4).astype(np.uint8).tobytes())
    expected.update(np.array(matrix.scales.tolist(), dtype="<f4").tobytes())
    assert matrix.hash() == expected.hexdigest()


@pytest.mark.parametrize("inputs", [32, 64, 96, 200, 1152])
def test_every_value_is_a_bfloat16_number(inputs):
    matrix = quantise_int4(draw(64, inputs) * 10.0 ** torch.arange(-20, 12).repeat(2).unsqueeze(1))
    wide = matrix.widen(torch.float64)
    assert torch.equal(matrix.widen(torch.bfloat16).double(), wide)
    assert torch.equal(matrix.widen(torch.float32).double(), wide)
    group = 64 if inputs % 64 == 0 else 32
    assert matrix.scales.shape == (64, -(-inputs // group))


def test_half_a_step_is_the_error():
    matrix = draw(256, 640) * 0.02
    found = quantise_int4(matrix)
    error = (found.widen(torch.float32) - matrix).unflatten(1, (-1, 64)).abs()
    # A number at the other end than the largest is cut by up to a step and a half.
    assert bool((error <= 1.5 * found.scales.abs().unsqueeze(-1)).all())
    assert measure_distance(found.widen(torch.float32), matrix) < 0.1


def test_the_bits_depend_neither_on_threads_nor_on_the_stored_copy():
    matrix = draw(300, 700).to(torch.bfloat16)
    before = torch.get_num_threads()
    try:
        hashes = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes |= {quantise_int4(matrix).hash(), quantise_int4(matrix.float()).hash()}
    finally:
        torch.set_num_threads(before)
    assert len(hashes) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    with pytest.raises(ModelError, match="not finite"):
        quantise_int4(torch.tensor([[1.0, value]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 8, 60])
@pytest.mark.parametrize("inputs", [100, 192])
def test_products_are_those_of_the_values_served(dtype, rows, inputs):
    plain = quantise_int4(draw(208, inputs))
    x = draw(rows, inputs, seed=4).to(dtype)
    exact = F.linear(x.double(), plain.widen(torch.float64))
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4}[dtype]
    for matrix in (plain, pack(plain)) if can_pack(plain, torch.bfloat16) else (plain,):
        found = matrix.multiply(x)
        assert found.dtype == dtype and found.shape == (rows, 208)
        assert measure_distance(found.double(), exact) < tolerance


# The packed kernel


@needs_kernel
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_packed_matrix_has_the_same_values_and_bytes(outputs, inputs):
    plain = quantise_int4(draw(outputs, inputs))
    assert can_pack(plain, torch.bfloat16)
    packed = pack(plain)
    assert packed.nbytes == plain.nbytes and packed.outputs == outputs
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(packed.widen(dtype), plain.widen(dtype))
    rows = torch.tensor([outputs - 1, 0, 3, 3])
    assert torch.equal(packed.widen_rows(rows, torch.float32), plain.widen(torch.float32)[rows])
    tile = slice(outputs - 9, outputs + 100)
    assert torch.equal(packed.widen_rows(tile, torch.float32), plain.widen(torch.float32)[tile])


@needs_kernel
def test_a_stack_of_experts_is_packed_one_by_one():
    plain = quantise_int4(torch.stack([draw(80, 64, seed=seed) for seed in range(3)]))
    packed = pack(plain)
    assert torch.equal(packed.widen(torch.float32), plain.widen(torch.float32))
    assert torch.equal(packed[2].widen(torch.float32), plain[2].widen(torch.float32))


@needs_kernel
def test_a_row_has_the_same_bits_beside_any_others():
    packed = pack(quantise_int4(draw(2112, 256)))
    x = draw(int4_packed.MAX_PACKED_ROWS, 256, seed=4).to(torch.bfloat16)
    alone = torch.cat([packed.multiply(row.unsqueeze(0)) for row in x])
    for rows in range(1, len(x) + 1):
        assert torch.equal(packed.multiply(x[:rows]), alone[:rows])


@needs_kernel
@pytest.mark.parametrize("has_amx", [False, True])
def test_many_rows_take_the_kernel_unless_there_is_amx(monkeypatch, has_amx):
    monkeypatch.setattr(int4_packed, "has_amx", lambda: has_amx)
    asked = []

    def multiply(x, packed, scales):
        asked.append(len(x))
        return multiply_packed(x, packed, scales)

    monkeypatch.setattr(int4_packed, "multiply_packed", multiply)
    plain = quantise_int4(draw(112, 64))
    packed, x = pack(plain), draw(130, 64, seed=4).to(torch.bfloat16)
    exact = x.double() @ plain.widen(torch.float64).T
    for rows in (1, int4_packed.MAX_PACKED_ROWS, 130):
        found = packed.multiply(x[:rows]).double()
        assert torch.allclose(found, exact[:rows], rtol=2.0**-7, atol=1e-2)
    assert asked == ([1, 48] if has_amx else [1, 48, 130])


@pytest.mark.parametrize("rows", [1, 9])
def test_a_plain_matrix_multiplies_in_every_type(rows):
    plain = quantise_int4(draw(24, 72))
    for dtype, close in ((torch.bfloat16, 2.0**-7), (torch.float32, 1e-5)):
        x = draw(rows, 72, seed=4).to(dtype)
        exact = x.double() @ plain.widen(torch.float64).T
        assert torch.allclose(plain.multiply(x).double(), exact, rtol=close, atol=0.02)


def test_a_matrix_that_the_kernel_does_not_take_stays_plain():
    for outputs, inputs in ((24, 64), (32, 72)):
        assert not can_pack(quantise_int4(draw(outputs, inputs)), torch.bfloat16)
    assert not can_pack(quantise_int4(draw(32, 64)), torch.float32)


@needs_kernel
def test_without_the_kernel_matrices_stay_plain(monkeypatch, make_checkpoint):
    """A machine without vector instructions, or a torch that orders a block otherwise."""
    folder = make_checkpoint(dtype="bfloat16", **WIDE)
    packed = load(folder, "int4", "bfloat16")
    monkeypatch.setattr(int4_packed, "find_order", lambda size: find_order(size).flip(0))
    monkeypatch.setattr(int4_packed, "has_kernel", has_kernel.__wrapped__)
    assert not int4_packed.has_kernel()
    plain = load(folder, "int4", "bfloat16")
    assert isinstance(packed.layers[0].qkv, PackedInt4Matrix)
    assert isinstance(plain.layers[0].qkv, Int4Matrix)
    monkeypatch.undo()
    assert measure_distance(run(packed), run(plain)) < 0.02


SCRIPT = """
import hashlib, torch
from mesh.model.int4 import quantise_int4
from mesh.model.int4_packed import get_block_size, has_kernel, pack
torch.set_num_threads({threads})
generator = torch.Generator().manual_seed(1)
matrix = quantise_int4(torch.randn(176, 192, generator=generator))
x = torch.randn(5, 192, generator=generator).to(torch.bfloat16)
found = pack(matrix).multiply(x).view(torch.int16) if has_kernel() else torch.zeros(1)
print(get_block_size(), matrix.hash(), hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""


@needs_kernel
def test_instruction_sets_and_threads_give_the_same_bits():
    """The rule always, and the packed kernel's products with AVX2 and AVX-512."""
    found = {}
    for capability in ("default", "avx2", torch.backends.cpu.get_cpu_capability().lower()):
        for threads in (1, 2):
            environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
            line = [sys.executable, "-c", SCRIPT.format(threads=threads)]
            said = subprocess.run(
                line, env=environment, capture_output=True, text=True, check=True, timeout=120
            )
            block, rule, product = said.stdout.split()
            found.setdefault(int(block), set()).add((rule, product))
    assert all(len(same) == 1 for same in found.values())
    assert len({rule for same in found.values() for rule, _ in same}) == 1
    assert len({product for block, same in found.items() if block for _, product in same}) == 1
    assert 0 in found and len(found) > 1


# A whole model


@pytest.mark.parametrize("tied", [False, True])
def test_an_int4_hosters_answers_are_those_of_the_dequantised_model(make_checkpoint, tied):
    """Challenges of layers and of the head, from bfloat16 and from float32 activations alike."""
    folder = make_checkpoint(dtype="bfloat16", tie_word_embeddings=tied, **WIDE)
    hidden = torch.randint(-127, 128, (16, 96), generator=torch.Generator().manual_seed(1)) / 64
    rows = torch.tensor([3, 271, 64, 0])
    narrow, wide = (load(folder, "int4", dtype) for dtype in ("bfloat16", "float32"))
    assert (narrow.served_dtype, isinstance(narrow.head, PackedInt4Matrix)) == (
        "int4",
        has_kernel(),
    )
    for layer in range(6):
        assert torch.equal(
            run_challenge_layer(narrow, layer, hidden), run_challenge_layer(wide, layer, hidden)
        )
    logits = [run_challenge_head(shard, hidden, rows) for shard in (narrow, wide)]
    assert torch.equal(*logits)
    plain = load(folder, "none")
    assert measure_distance(logits[0], run_challenge_head(plain, hidden, rows)) > 2.0**-7


def test_int4_answers_stay_close(make_checkpoint):
    folder = make_checkpoint(**WIDE)
    plain, packed = load(folder, "none"), load(folder, "int4")
    assert 0.05 < measure_distance(run(packed), run(plain)) < 0.4


@pytest.mark.parametrize("tied", [False, True])
def test_an_int4_model_has_its_own_manifest_with_the_head(make_checkpoint, tied):
    folder = make_checkpoint(tie_word_embeddings=tied)
    plain, int8, int4 = (make_manifest(folder, kind) for kind in ("none", "int8", "int4"))
    assert len({made.manifest_hash for made in (plain, int8, int4)}) == 3
    assert int4.quant_type == "int4"
    assert int4.tensors["model.layers.0.mlp.up_proj.weight"][0] == "I4"
    # A tied head is served beside the embedding, in other values.
    assert int4.tensors[EMBEDDING] == plain.tensors[EMBEDDING]
    assert int4.tensors[HEAD][:2] == ("I4", (131, 48))
    check(int4, folder, "int4")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("span", [(0, 3), (3, 6)])
def test_a_range_is_checked_for_what_it_serves(make_checkpoint, tied, span):
    mine, theirs = (make_checkpoint(seed=s, tie_word_embeddings=tied) for s in (7, 8))
    manifest = make_manifest(mine, "int4")
    check(manifest, mine, "int4", span=span)
    with pytest.raises(ManifestMismatch, match="SHA-256 of"):
        check(manifest, theirs, "int4", span=span)


def test_int4_under_another_manifest_is_refused(make_checkpoint):
    folder = make_checkpoint()
    for kind in ("none", "int8"):
        with pytest.raises(ManifestMismatch, match=f"quantisation: the manifest has {kind}.*int4"):
            check(make_manifest(folder, kind), folder, "int4")


def test_an_unknown_quant_type_is_named(make_checkpoint):
    folder = make_checkpoint()
    with pytest.raises(ModelError, match="quant type int3 is not one of none, int8, int4"):
        load(folder, "int3")
