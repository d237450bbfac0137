"""Penalties, biases, masks: what they do to a row, and that they are functions of the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mesh.errors import InvalidRequest
from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.sampler import SampleRequest, sample_rows
from mesh.inference.sampling import MAX_BIASES, Sampling
from mesh.inference.shaping import LogitChange, LogitShaper

LOGITS = torch.randn(1, 50, generator=torch.Generator().manual_seed(5))
ORDER = LOGITS[0].argsort(descending=True).tolist()


def choose(sampling, answer=(), *, index=0, logits=LOGITS):
    """Choose the token after an answer so far."""
    shaper = LogitShaper(sampling)
    for token_id in answer:
        shaper.note(token_id)
    (token,) = sample_rows(logits, [SampleRequest(sampling, index, (), shaper.get_change())])
    return token


def test_a_bias_lifts_and_bans_single_tokens():
    best, second = ORDER[:2]
    assert choose(Sampling(logit_bias=((7, 100.0),))).token_id == 7
    assert choose(Sampling(logit_bias=((best, -100.0),))).token_id == second


def test_penalties_count_what_the_answer_has_and_how_often():
    best, second = ORDER[:2]
    lead = float(LOGITS[0, best] - LOGITS[0, second])
    just = Sampling(presence_penalty=min(2.0, lead + 0.01))
    assert choose(just).token_id == best
    assert choose(just, [best]).token_id == second
    often = Sampling(frequency_penalty=lead * 0.6)
    assert choose(often, [best]).token_id == best
    assert choose(often, [best, best]).token_id == second
    assert choose(Sampling(presence_penalty=lead * 0.6), [best] * 9).token_id == best


def test_no_stop_token_comes_before_min_tokens():
    best, second = ORDER[:2]
    sampling = Sampling(min_tokens=2, stop_token_ids=(best,))
    assert choose(sampling).token_id == second
    assert choose(sampling, [second]).token_id == second
    assert choose(sampling, [second, second]).token_id == best


def test_min_p_leaves_out_what_is_less_likely_than_a_part_of_the_likeliest():
    probabilities = torch.softmax(LOGITS[0].double(), -1)
    least = 0.3 * float(probabilities.max())
    sampling = Sampling(temperature=1.0, min_p=0.3)
    drawn = {choose(sampling, index=index).token_id for index in range(300)}
    assert drawn == {token for token in range(50) if probabilities[token] >= least}
    assert choose(replace(sampling, min_p=1.0)).token_id == ORDER[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_nothing_outside_a_mask_is_ever_drawn_not_even_of_numbers_that_are_none(temperature):
    mask = np.zeros(2, dtype=np.int32)
    mask[0] = 1 << 3 | 1 << 11
    change = LogitChange(mask=mask)
    spoilt = LOGITS.clone()
    spoilt[0, ::2] = torch.nan
    spoilt[0, 3], spoilt[0, 5] = -torch.inf, torch.inf
    for logits in (LOGITS, spoilt):
        for index in range(100):
            request = SampleRequest(Sampling(temperature=temperature), index, (), change)
            sampled = replace(request, sampling=replace(request.sampling, logit_bias=((0, 0.0),)))
            (token,) = sample_rows(logits, [sampled])
            assert token.token_id in (3, 11)


def test_the_log_probability_that_is_told_is_the_models_own():
    token = choose(Sampling(logit_bias=((7, 100.0),), top_logprobs=2))
    expected = torch.log_softmax(LOGITS[0], -1)
    assert token.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    assert [other.token_id for other in token.top_logprobs] == ORDER[:2]


def test_a_change_leaves_the_neighbours_rows_alone():
    rows = LOGITS.repeat(2, 1)
    sampling = Sampling(logit_bias=((7, 100.0),))
    change = LogitShaper(sampling).get_change()
    before = rows.clone()
    found = sample_rows(
        rows, [SampleRequest(sampling, 0, (), change), SampleRequest(Sampling(), 0)]
    )
    assert [token.token_id for token in found] == [7, ORDER[0]]
    assert torch.equal(rows, before)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("frequency_penalty", {"frequency_penalty": 2.1}),
        ("presence_penalty", {"presence_penalty": math.nan}),
        ("min_p", {"min_p": -0.1}),
        ("min_tokens", {"min_tokens": -1}),
        ("logit_bias", {"logit_bias": ((1, 101.0),)}),
        ("logit_bias", {"logit_bias": tuple((n, 0.0) for n in range(MAX_BIASES + 1))}),
        ("grammar", {"grammar": Grammar(GrammarKind.REGEX, "")}),
        ("ignore_eos", {"grammar": Grammar(GrammarKind.REGEX, "a")}),
        (
            "min_tokens",
            {
                "grammar": Grammar(GrammarKind.REGEX, "a"),
                "min_tokens": 2,
                "stop_token_ids": (1,),
            },
        ),
    ],
)
def test_an_impossible_parameter_is_named(field, change):
    with pytest.raises(InvalidRequest) as raised:
        Sampling(**change).check()
    assert raised.value.field == field


@pytest.mark.parametrize("vocab_size", [1, 7, 32, 259, 1001])
def test_a_mask_bans_exactly_the_tokens_whose_bits_are_not_set(vocab_size):
    draw = np.random.default_rng(vocab_size)
    words = draw.integers(-(2**31), 2**31, size=(vocab_size + 31) // 32, dtype=np.int64)
    mask = words.astype(np.int32)
    largest = torch.finfo(torch.float64).max
    row = torch.full((vocab_size,), largest, dtype=torch.float64)
    row[::2] = -largest
    expected = [
        float(value) if mask[place // 32] >> (place % 32) & 1 else -math.inf
        for place, value in enumerate(row)
    ]
    LogitChange(mask=mask).apply(row)
    assert row.tolist() == expected
