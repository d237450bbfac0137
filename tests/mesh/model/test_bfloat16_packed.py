"""bfloat16 matrices in the order of oneDNN's kernels: the same values, and products of them."""

from __future__ import annotations

import pytest
import torch

from mesh.model import bfloat16_packed
from mesh.model.bfloat16_packed import PackedBfloat16Stack, can_pack, has_kernels, pack
from mesh.model.challenge import run_challenge_head, run_challenge_layer
from tests.support.quantised import load, measure_distance, run

needs_kernels = pytest.mark.skipif(
    not has_kernels(), reason="this processor has no AVX-512, for which matrices are packed"
)
SHAPES = [(1, 64), (17, 33), (64, 64), (96, 80), (130, 7), (576, 1536)]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def draw(*shape, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(torch.bfloat16)


@pytest.fixture(params=["one tile", "tiles"])
def tiles(request, monkeypatch):
    """Matrices of one tile, or of several of 64 outputs each."""
    if request.param == "tiles":
        monkeypatch.setattr(bfloat16_packed, "TILE_NUMBERS", 64)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_matrix_has_its_values_and_they_are_multiplied(shape, tiles):
    matrix = draw(*shape)
    packed = pack(matrix)
    assert (packed.outputs, packed.inputs, packed.nbytes) == (*shape, matrix.nbytes)
    assert torch.equal(packed.widen(torch.bfloat16), matrix)
    assert torch.equal(packed.widen(torch.float64), matrix.double())
    for rows in (1, 2, 9):
        x = draw(rows, shape[1], seed=rows)
        exact = x.double() @ matrix.double().T
        found = packed.multiply(x)
        assert found.dtype == torch.bfloat16 and found.shape == exact.shape
        assert torch.allclose(found.double(), exact, rtol=2.0**-7, atol=0.02)
        wide = packed.multiply(x.float())
        assert torch.allclose(wide.double(), exact, rtol=1e-4, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize("rows", [torch.tensor([129, 0, 64, 0, 65]), slice(60, 70), slice(0, 0)])
def test_rows_are_read_back_by_number_and_by_slice(rows, tiles):
    matrix = draw(130, 16)
    found = pack(matrix).widen_rows(rows, torch.float32)
    assert torch.equal(found, matrix[rows].float())


@needs_kernels
def test_a_stack_is_packed_matrix_by_matrix():
    stack = draw(3, 32, 16)
    packed = pack(stack)
    assert isinstance(packed, PackedBfloat16Stack)
    assert (packed.outputs, packed.inputs, packed.nbytes) == (32, 16, stack.nbytes)
    assert torch.equal(packed.widen(torch.bfloat16), stack)
    assert torch.equal(packed[2].widen(torch.bfloat16), stack[2])
    rows = torch.tensor([31, 2])
    assert torch.equal(packed.widen_rows(rows, torch.bfloat16), stack[:, rows])


def test_other_types_and_processors_keep_matrices_plain(monkeypatch):
    assert not can_pack(draw(8, 8).float())
    monkeypatch.setattr(bfloat16_packed, "has_kernels", lambda: False)
    assert not can_pack(draw(8, 8))


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_torch_without_the_functions_keeps_matrices_plain(monkeypatch, error):
    def refuse(*arguments):
        raise error("no such function")

    monkeypatch.setattr(bfloat16_packed, "_pack", refuse)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not has_kernels.__wrapped__()


@needs_kernels
@pytest.mark.parametrize("change", [lambda x: x * 1.1, lambda x: x.flip(-1)])
def test_kernels_that_multiply_something_else_are_not_taken(monkeypatch, change):
    multiply = bfloat16_packed._multiply
    monkeypatch.setattr(bfloat16_packed, "_multiply", lambda x, tile: change(multiply(x, tile)))
    assert not has_kernels.__wrapped__()


@needs_kernels
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}),
        ("Qwen3MoeForCausalLM", EXPERTS),
    ],
)
def test_a_packed_model_answers_and_is_challenged_like_a_plain_one(
    make_checkpoint, monkeypatch, architecture, changes
):
    folder = make_checkpoint(architecture, dtype="bfloat16", **changes)
    packed = load(folder, "none", "bfloat16")
    monkeypatch.setattr(bfloat16_packed, "has_kernels", lambda: False)
    plain = load(folder, "none", "bfloat16")
    assert not isinstance(packed.head, torch.Tensor) and isinstance(plain.head, torch.Tensor)
    assert torch.equal(packed.embedding, plain.embedding)
    assert measure_distance(run(packed), run(plain)) < 0.02
    hidden = draw(16, packed.config.hidden_size).float()
    rows = torch.tensor([130, 0, 7])
    assert torch.equal(
        run_challenge_head(packed, hidden, rows), run_challenge_head(plain, hidden, rows)
    )
    for layer in (0, 5):
        assert torch.equal(
            run_challenge_layer(packed, layer, hidden), run_challenge_layer(plain, layer, hidden)
        )
