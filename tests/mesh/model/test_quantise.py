"""int8 weights: fixed rules, so that a manifest can hash them, and small errors."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from mesh.errors import ManifestMismatch, ModelError
from mesh.model.attention import Segment
from mesh.model.challenge import run_challenge_layer
from mesh.model.llama import ShardRunner
from mesh.model.manifest import decode_manifest
from mesh.model.quantise import Int8Matrix, multiply_rows, quantise
from tests.support.families import FAMILIES
from tests.support.quantised import check, load, make_manifest, measure_distance, run


def test_the_rules_of_quantisation_are_fixed():
    """Half to even, 127 steps a side, rows of zeros served as zeros: known answers."""
    matrix = torch.tensor(
        [[127.0, -127.0, 2.5, 3.5], [0.0, 0.0, 0.0, 0.0], [-1.0, 0.5, 0.25, 1e-9], [1e-44, 0, 0, 0]]
    )
    found = quantise(matrix)
    assert found.values.tolist() == [
        [127, -127, 2, 4],
        [0, 0, 0, 0],
        [-127, 64, 32, 0],
        [0, 0, 0, 0],
    ]
    assert found.scales.tolist() == [1.0, 1.0, float(np.float32(1.0) / np.float32(127.0)), 1.0]
    expected = hashlib.sha256(b"mesh/tensor/int8")
    expected.update(np.array(found.values.tolist(), dtype=np.int8).tobytes())
    expected.update(np.array(found.scales.tolist(), dtype="<f4").tobytes())
    assert found.hash() == expected.hexdigest()


def test_the_bits_depend_neither_on_threads_nor_on_the_stored_copy():
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(300, 700, generator=generator, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    try:
        hashes = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes |= {quantise(matrix).hash(), quantise(matrix.float()).hash()}
    finally:
        torch.set_num_threads(before)
    assert len(hashes) == 1


def test_a_weight_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="not finite"):
        quantise(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_products_are_those_of_the_values_served(dtype, rows):
    generator = torch.Generator().manual_seed(3)
    matrix = quantise(torch.randn(200, 96, generator=generator))
    x = torch.randn(rows, 96, generator=generator).to(dtype)
    bias = torch.randn(200, generator=generator).to(dtype)
    exact = x.double() @ matrix.widen(torch.float64).T + bias.double()
    found = multiply_rows(x, matrix, bias)
    assert found.dtype == dtype and found.shape == (rows, 200)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}[dtype]
    assert float((found.double() - exact).norm() / exact.norm()) < tolerance


def test_int8_answers_stay_close(make_checkpoint):
    # Weights as large as a trained model's: at transformers' 0.02 this narrow model hardly acts.
    folder = make_checkpoint(initializer_range=0.2)
    plain, packed = load(folder, "none"), load(folder, "int8")
    assert (plain.served_dtype, packed.served_dtype) == ("float32", "int8")
    assert isinstance(packed.layers[0].qkv, Int8Matrix)
    assert 0 < measure_distance(run(packed), run(plain)) < 0.05


def test_int8_weights_show_in_the_answer_of_a_layer_that_adds_little(make_checkpoint):
    """At transformers' deviation of 0.02 this narrow model hardly acts on its residual stream."""
    folder = make_checkpoint()
    hidden = torch.randint(-127, 128, (16, 48)).float() / 64
    honest, cheat = (
        run_challenge_layer(load(folder, quant_type), 2, hidden) for quant_type in ("none", "int8")
    )
    tolerance = 2.0**-12
    assert measure_distance(cheat, honest) > 10 * tolerance
    assert measure_distance(hidden[-1] + cheat, hidden[-1] + honest) < tolerance


def test_a_challenge_does_not_depend_on_the_activations_type(make_checkpoint):
    folder = make_checkpoint(dtype="bfloat16")
    hidden = torch.randn(16, 48, generator=torch.Generator().manual_seed(2))
    narrow, wide = (
        run_challenge_layer(load(folder, "int8", dtype), 1, hidden)
        for dtype in ("bfloat16", "float32")
    )
    assert torch.equal(narrow, wide)


def test_a_quantised_model_has_its_own_manifest(make_checkpoint):
    folder = make_checkpoint()
    plain, packed = make_manifest(folder, "none"), make_manifest(folder, "int8")
    assert plain.manifest_hash != packed.manifest_hash
    assert decode_manifest(packed.body) == packed
    assert (plain.quant_type, packed.quant_type) == ("none", "int8")
    assert packed.tensors["model.layers.0.mlp.up_proj.weight"][0] == "I8"
    name = "model.embed_tokens.weight"
    assert packed.tensors[name] == plain.tensors[name]
    check(plain, folder, "none")
    check(packed, folder, "int8")


def test_int8_under_a_plain_manifest_is_refused_and_the_reverse(make_checkpoint):
    folder = make_checkpoint()
    with pytest.raises(ManifestMismatch, match="quantisation: the manifest has none.*int8"):
        check(make_manifest(folder, "none"), folder, "int8")
    with pytest.raises(ManifestMismatch, match="quantisation: the manifest has int8.*none"):
        check(make_manifest(folder, "int8"), folder, "none")


def test_what_is_not_quantised_may_not_be_rounded_either(make_checkpoint):
    folder = make_checkpoint()
    with pytest.raises(ManifestMismatch, match="would round"):
        check(make_manifest(folder, "int8"), folder, "int8", served_dtype="bfloat16")


def test_changed_weights_of_a_quantised_model_are_named(make_checkpoint):
    mine, theirs = make_checkpoint(), make_checkpoint(seed=8)
    with pytest.raises(ManifestMismatch, match="SHA-256 of"):
        check(make_manifest(mine, "int8"), theirs, "int8")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3MoeForCausalLM"])
def test_rows_of_a_crowd_equal_rows_alone(make_checkpoint, architecture):
    """Decode rows of a deterministic runner: the same bits whatever stands beside them."""
    for dtype in ("float32", "bfloat16"):
        folder = make_checkpoint(architecture, dtype="bfloat16", **FAMILIES[architecture])
        shard = load(folder, "int8", dtype)
        runner = ShardRunner(shard, cache_tokens=160, deterministic=True)
        with torch.inference_mode():
            x = runner.embed(range(3, 13))
            alone = runner.forward(x[:1], [Segment(0, 1, pages=(0,), position=0)], start=0, end=6)
            crowd = [Segment(row, 1, pages=(row,), position=0) for row in range(10)]
            joint = runner.forward(x, crowd, start=0, end=6)
        assert torch.equal(alone[0], joint[0])
