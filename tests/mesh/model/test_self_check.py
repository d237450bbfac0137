"""A machine whose float32 is not float32 is told so before it goes online."""

import pytest
import torch

from mesh.errors import InexactArithmetic
from mesh.model import challenge, self_check
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.self_check import check_float32, multiply_exactly
from mesh.model.weights import load_shard
from tests.support.families import FAMILIES


def load(folder, **options):
    return load_shard(
        resolve_model_folder(str(folder)), load_config(folder), start=1, end=3, **options
    )


def check(weights):
    check_float32(weights.config, weights.get_layer(1), weights.device)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"quant_type": "int8"}, {"quant_type": "int4"}]
)
def test_an_honest_machine_passes_whatever_it_serves(make_checkpoint, architecture, options):
    check(load(make_checkpoint(architecture, **FAMILIES[architecture]), **options))


def keep_bits(tensor, bits):
    """Round float32 to so many bits of mantissa, as TF32 (10) and bfloat16 (7) products do."""
    step = 1 << (23 - bits)
    integers = tensor.contiguous().view(torch.int32)
    return ((integers + step // 2) & -step).view(torch.float32)


@pytest.mark.parametrize("bits", [10, 7])
def test_products_in_tf32_or_bfloat16_are_refused(make_checkpoint, monkeypatch, bits):
    def narrow_rows(x, matrix, bias):
        if x.dtype == torch.float64:
            return multiply_exactly(x, matrix, bias)
        product = keep_bits(x, bits) @ keep_bits(matrix, bits).T
        return product if bias is None else product + bias

    def compute(config, weights, x, *, multiply=narrow_rows):
        return challenge.compute_last_addition(config, weights, x, multiply=multiply)

    monkeypatch.setattr(self_check, "compute_last_addition", compute)
    with pytest.raises(InexactArithmetic, match="float32 on cpu"):
        check(load(make_checkpoint()))


def test_a_machine_that_gives_no_numbers_is_refused(make_checkpoint, monkeypatch):
    def compute(config, weights, x, **options):
        return torch.full((config.hidden_size,), float("nan"), dtype=x.dtype)

    monkeypatch.setattr(self_check, "compute_last_addition", compute)
    with pytest.raises(InexactArithmetic):
        check(load(make_checkpoint()))


def test_a_product_of_tiles_is_the_whole_product():
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(1200, 24, generator=generator)
    x = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    bias = torch.randn(1200, generator=generator, dtype=torch.float64)
    assert torch.equal(multiply_exactly(x, matrix, bias), x @ matrix.double().T + bias)
