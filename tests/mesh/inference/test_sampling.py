"""Tokens by seed and index, and never outside top-k or top-p."""

from __future__ import annotations

import math

import pytest
import torch

from mesh.errors import InvalidRequest
from mesh.inference.sampler import SampleRequest, sample_rows
from mesh.inference.sampling import Sampling, compute_draw

LOGITS = torch.randn(4, 50, generator=torch.Generator().manual_seed(5))


def draw(sampling, *, count=300, row=0, seen=()):
    requests = [SampleRequest(sampling, index, seen) for index in range(count)]
    rows = LOGITS[row].expand(count, -1)
    return [chosen.token_id for chosen in sample_rows(rows, requests)]


def test_draws_are_fixed_numbers():
    assert compute_draw(0, 0) == compute_draw(0, 0)
    draws = [compute_draw(3, index) for index in range(2000)]
    assert all(0.0 <= value < 1.0 for value in draws)
    assert abs(sum(draws) / 2000 - 0.5) < 0.03


def test_greedy_takes_the_largest_logit():
    requests = [SampleRequest(Sampling(), 0)] * 4
    found = [chosen.token_id for chosen in sample_rows(LOGITS, requests)]
    assert found == LOGITS.argmax(dim=-1).tolist()


def test_a_row_is_sampled_alike_alone_and_in_a_crowd():
    sampling = Sampling(temperature=1.3, top_p=0.9, seed=11)
    requests = [SampleRequest(sampling, index) for index in range(4)]
    together = sample_rows(LOGITS, requests)
    alone = [sample_rows(LOGITS[i : i + 1], requests[i : i + 1])[0] for i in range(4)]
    assert together == alone


def test_frequencies_follow_the_probabilities():
    tokens = draw(Sampling(temperature=1.0, seed=1), count=4000)
    expected = torch.softmax(LOGITS[0].double(), dim=-1)
    found = torch.bincount(torch.tensor(tokens), minlength=50) / 4000
    assert (found - expected).abs().max() < 0.03


def test_top_k_and_top_p_cut_the_tail():
    likeliest = LOGITS[0].argsort(descending=True).tolist()
    assert set(draw(Sampling(temperature=2.0, top_k=3))) == set(likeliest[:3])
    probabilities = torch.softmax(LOGITS[0].double(), dim=-1)[likeliest].cumsum(0)
    kept = int((probabilities < 0.5).sum()) + 1
    assert set(draw(Sampling(temperature=1.0, top_p=0.5))) <= set(likeliest[:kept])
    assert set(draw(Sampling(temperature=1.0, top_p=1e-9))) == {likeliest[0]}


def test_repetition_penalty_equals_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    seen = [3, 9, 9, 41]
    expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([seen]), LOGITS[:1].clone())
    (found,) = set(draw(Sampling(repetition_penalty=1.8), count=1, seen=seen))
    assert found == int(expected.argmax())


def test_logprobs_are_of_the_model_not_of_the_sampler():
    sampling = Sampling(temperature=0.5, top_logprobs=5)
    (chosen,) = sample_rows(LOGITS[:1], [SampleRequest(sampling, 0)])
    expected = torch.log_softmax(LOGITS[0], dim=-1)
    assert chosen.logprob == pytest.approx(float(expected[chosen.token_id]), abs=1e-5)
    assert [other.token_id for other in chosen.top_logprobs] == expected.topk(5).indices.tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("seed", 2**64),
        ("top_logprobs", 21),
        ("stop_token_ids", tuple(range(17))),
    ],
)
def test_impossible_parameters_are_named(field, value):
    with pytest.raises(InvalidRequest, match=field):
        Sampling(**{field: value}).check()
