"""The draw rule on the device equals the rule written out by sorting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mesh.inference import draws as draws_module
from mesh.inference.draws import Draws
from mesh.inference.sampler import PendingTokens, SampleRequest, find_best, sample_rows
from mesh.inference.sampling import Sampling, compute_draw

VOCABULARY = 211
SAMPLINGS = [
    Sampling(temperature=t, top_k=k, top_p=p, seed=7)
    for t, k, p in itertools.product(
        (0.3, 1.0, 9.0), (0, 1, 5, 40, 211, 2**32 - 1), (1.0, 0.9, 0.3)
    )
]


def choose_by_sorting(scores, sampling, draw):
    """Return the token that the rule chooses, of a list of floats."""
    if not sampling.temperature:
        return max(range(len(scores)), key=lambda i: (scores[i], -i))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if sampling.top_k:
        order = order[: sampling.top_k]
    best = max(scores)
    weights = {i: math.exp((scores[i] - best) / sampling.temperature) for i in order}
    if sampling.top_p < 1.0:
        total, before, kept = math.fsum(weights.values()), 0.0, []
        for i in order:
            if kept and before >= sampling.top_p * total:
                break
            kept.append(i)
            before += weights[i]
        order = kept
    target, summed = draw * math.fsum(weights[i] for i in order), 0.0
    for i in sorted(order):
        summed += weights[i]
        if summed > target:
            return i
    return max(order)


@pytest.mark.parametrize("candidates", [8, 256])
@pytest.mark.parametrize("are_tied", [False, True])
def test_the_rule_equals_sorting(monkeypatch, candidates, are_tied):
    """Eight candidates are often too few: the rest of the row is then ordered."""
    monkeypatch.setattr(draws_module, "CANDIDATES", candidates)
    logits = 3 * torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(1))
    if are_tied:
        logits = logits.round()
    rows = logits.double().tolist()
    settled = 0
    for sampling in SAMPLINGS:
        requests = [SampleRequest(sampling, index) for index in range(len(logits))]
        pending = PendingTokens(logits, requests, find_best(logits))
        before = pending.token_ids.tolist()
        found = [token.token_id for token in pending.read()]
        changed = [i for i in range(len(logits)) if found[i] != before[i]]
        assert set(changed) <= set(pending.unsure)
        settled += len(changed)
        expected = [
            choose_by_sorting(row, sampling, compute_draw(7, index))
            for index, row in enumerate(rows)
        ]
        assert found == expected, sampling
    assert (settled > 0) == (candidates == 8)


def test_rows_of_all_kinds_in_one_batch_are_chosen_as_alone():
    logits = 3 * torch.randn(60, VOCABULARY, generator=torch.Generator().manual_seed(2))
    kinds = [Sampling(), Sampling(top_logprobs=3), Sampling(repetition_penalty=1.5)]
    kinds += [Sampling(temperature=1.0, seed=3, top_logprobs=5), *SAMPLINGS]
    requests = [
        SampleRequest(sampling, index, seen=[1, 4, 9]) for index, sampling in enumerate(kinds[:60])
    ]
    together = sample_rows(logits[: len(requests)], requests)
    alone = [sample_rows(logits[i : i + 1], [requests[i]])[0] for i in range(len(requests))]
    assert together == alone
    assert [len(token.top_logprobs) for token in together[:4]] == [0, 3, 0, 5]


def test_logits_may_be_overwritten_before_the_tokens_are_read(monkeypatch):
    """The next step of a captured graph writes its logits where the last one's were."""
    monkeypatch.setattr(draws_module, "CANDIDATES", 4)
    logits = torch.randn(9, VOCABULARY, generator=torch.Generator().manual_seed(3))
    kinds = [Sampling(top_logprobs=4), Sampling(temperature=2.0, top_p=0.9, seed=5), Sampling()]
    requests = [SampleRequest(kinds[i % 3], i) for i in range(9)]
    expected = sample_rows(logits, requests)
    pending = PendingTokens(logits, requests, find_best(logits))
    logits.fill_(math.nan)
    assert pending.read() == expected


def test_a_draw_of_almost_one_takes_the_last_token_that_is_kept():
    scores = torch.tensor([[1.0, 5.0, 4.0, 0.0, -900.0]], dtype=torch.float64)
    almost = 1 - 2.0**-53
    for sampling, last in (
        (Sampling(temperature=1.0), 3),
        (Sampling(temperature=1.0, top_k=2), 2),
        (Sampling(temperature=1.0, top_p=0.7), 1),
    ):
        assert Draws(scores, [sampling], [almost]).token_ids.tolist() == [last]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_choose_a_token_of_the_vocabulary(bad):
    logits = torch.full((4, 50), bad)
    samplings = [Sampling(), *(Sampling(temperature=1.0, top_p=p, top_k=4) for p in (1.0, 0.5))]
    for sampling in samplings:
        tokens = sample_rows(logits, [SampleRequest(sampling, i) for i in range(4)])
        assert all(0 <= token.token_id < 50 for token in tokens)
