"""bfloat16 matrices on processors without instructions for them: exact sums, rounded once."""

from __future__ import annotations

import pytest
import torch

from mesh.model import bfloat16
from mesh.model.products import multiply_vector
from mesh.model.quantise import multiply_rows
from mesh.model.weights import lay_out_tensor

OUTPUTS, INPUTS = bfloat16.MIN_INPUT_MAJOR_OUTPUTS, 200
ROWS = [1, 2, 3, 4, 7, 8, 33]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A processor like AVX2's, and an engine of one thread."""
    monkeypatch.setattr(bfloat16, "lacks_bfloat16", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_matrix(outputs=OUTPUTS):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(outputs, INPUTS, generator=generator).bfloat16()


def make_rows(rows):
    return torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(5)).bfloat16()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("outputs", [37, OUTPUTS])
def test_products_are_as_near_to_the_exact_ones_as_one_rounding(rows, outputs):
    matrix, x, bias = make_matrix(outputs), make_rows(rows), torch.randn(outputs).bfloat16()
    exact = x.double() @ matrix.double().T
    stored = lay_out_tensor(matrix)
    assert stored.is_contiguous() == (outputs < OUTPUTS)
    found = multiply_rows(x, stored, None)
    assert found.dtype == torch.bfloat16 and found.shape == (rows, outputs)
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-4)
    assert torch.equal(multiply_rows(x, stored, bias), found + bias)


def test_a_few_rows_have_the_bits_of_rows_that_come_one_by_one():
    matrix, x = lay_out_tensor(make_matrix()), make_rows(3)
    alone = [multiply_vector(x[row : row + 1], matrix) for row in range(3)]
    assert torch.equal(multiply_rows(x, matrix, None), torch.cat(alone))


@pytest.mark.parametrize("place", [0, 1])
def test_a_stack_of_experts_is_stored_by_expert(place):
    stack = torch.stack([make_matrix(), make_matrix() * 2])
    stored = lay_out_tensor(stack)
    assert torch.equal(stored, stack)
    x = make_rows(5)
    found, expected = (multiply_rows(x, one[place], None) for one in (stored, stack))
    assert torch.allclose(found.float(), expected.float(), rtol=2**-7, atol=1e-3)


def test_with_two_threads_matrices_stay_as_they_are():
    torch.set_num_threads(2)
    matrix = make_matrix()
    assert lay_out_tensor(matrix) is matrix


def test_other_processors_and_types_multiply_as_before(monkeypatch):
    assert not bfloat16.is_slow(make_matrix().half())
    monkeypatch.setattr(bfloat16, "lacks_bfloat16", lambda: False)
    matrix = make_matrix()
    assert not bfloat16.is_slow(matrix) and lay_out_tensor(matrix) is matrix
