"""A row's sums have the same bits alone and in a crowd, with one thread and with several."""

from __future__ import annotations

import pytest
import torch

from mesh.inference.sampler import SampleRequest, sample_rows, score_rows
from mesh.inference.sampling import Sampling

VOCABULARY = 49_152
"""More than torch gives to one thread of several."""
SEEDS = range(40)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draw_logits(seed):
    return 3 * torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.9, seed=3)])
def test_log_probabilities_depend_on_neither_the_threads_nor_the_crowd(threads, sampling):
    """With two threads torch divided the sum of a row alone, and 2 in 40 were others."""
    for seed in SEEDS:
        logits, request = draw_logits(seed), SampleRequest(sampling, 0)
        found = []
        for count in (1, 2, 3):
            threads(count)
            found += sample_rows(logits, [request])
            found += sample_rows(logits.repeat(3, 1), [request] * 3)
        assert len(found) == 12 and set(found) == {found[0]}


def test_scores_of_a_text_depend_on_neither_the_threads_nor_the_crowd(threads):
    for seed in SEEDS:
        found = []
        for count in (1, 2, 3):
            threads(count)
            found += score_rows(draw_logits(seed), [7], 2)
            found += score_rows(draw_logits(seed).repeat(3, 1), [7] * 3, 2)
        assert len(found) == 12 and set(found) == {found[0]}
