"""Experts are chosen as transformers chooses them; challenges weigh the edge of the choice."""

from __future__ import annotations

import pytest
import torch

from mesh.model.challenge import compute_last_addition
from mesh.model.config import load_config
from mesh.model.family import ExpertsConfig
from mesh.model.files import resolve_model_folder
from mesh.model.mlp import EDGE_WIDTH, weigh_experts
from mesh.model.weights import load_shard
from tests.support.families import EXPERTS

TWO_OF_FOUR = ExpertsConfig(4, 2, True)


def weigh(logits, *, is_smooth, experts=TWO_OF_FOUR):
    return weigh_experts(torch.tensor([logits]), experts, is_smooth=is_smooth)[0]


def test_a_tie_at_the_edge_of_the_choice_moves_no_challenge():
    """Machines that differ in the last bits choose other experts, and answer alike."""
    above, below = [4.0, 3.0, 3.0 - 1e-6, 0.0], [4.0, 3.0 - 1e-6, 3.0, 0.0]
    assert (weigh(above, is_smooth=True) - weigh(below, is_smooth=True)).abs().max() < 2e-6
    assert (weigh(above, is_smooth=False) - weigh(below, is_smooth=False)).abs().max() > 0.2


@pytest.mark.parametrize("is_normalised", [False, True])
def test_away_from_the_edge_a_challenge_takes_the_experts_that_are_served(is_normalised):
    experts = ExpertsConfig(4, 2, is_normalised)
    logits = [0.5, 4.0, 0.5 - EDGE_WIDTH, 2.0]
    smooth, served = (
        weigh(logits, is_smooth=is_smooth, experts=experts) for is_smooth in (True, False)
    )
    assert torch.equal(smooth, served)
    assert served.nonzero().flatten().tolist() == [1, 3]
    assert bool(served.sum() > 0.999) == is_normalised


def test_where_every_expert_is_taken_there_is_no_edge():
    experts = ExpertsConfig(3, 3, False)
    logits = [1.0, 1.0, 1.0]
    for is_smooth in (True, False):
        assert torch.allclose(
            weigh(logits, is_smooth=is_smooth, experts=experts), torch.full((3,), 1 / 3)
        )


def test_an_answer_is_continuous_where_two_experts_tie(make_checkpoint):
    """The whole layer: another float32 sum in the router moves the answer by as little."""
    folder = make_checkpoint("Qwen3MoeForCausalLM", **EXPERTS)
    config = load_config(folder)
    shard = load_shard(resolve_model_folder(str(folder)), config, start=2, end=3)
    (layer,) = shard.layers
    x = torch.randn(16, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        router = layer.router.clone()
        # All experts tie, and a change of the last bits chooses among them.
        layer.router[:] = router[0]
        tied = compute_last_addition(config, layer, x)
        layer.router.add_(1e-7 * router)
        moved = compute_last_addition(config, layer, x)
    assert (moved - tied).norm() < 1e-5 * tied.norm()
