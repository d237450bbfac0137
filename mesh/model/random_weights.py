"""Weights of an untrained Llama-style model, to measure what depends on a model's width."""

from __future__ import annotations

import torch
from torch import Tensor

from mesh.model.config import ModelConfig
from mesh.model.families import list_layer
from mesh.model.family import LayerTensor
from mesh.model.weights import LayerWeights, ShardWeights, assemble_layer

DEVIATION = 0.02
"""What Llama-style models begin with; norms are 1 and a deviation."""


def draw_weights(config: ModelConfig, *, seed: int) -> ShardWeights:
    """Return all layers, embedding and head in float32 on the CPU; equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, hidden = config.vocab_size, config.hidden_size
    return ShardWeights(
        config,
        0,
        config.num_layers,
        torch.float32,
        torch.device("cpu"),
        tuple(_draw_layer(config, generator) for _ in range(config.num_layers)),
        embedding=_draw(generator, vocabulary, hidden),
        final_norm=1 + _draw(generator, hidden),
        head=_draw(generator, vocabulary, hidden),
    )


def _draw_layer(config: ModelConfig, generator: torch.Generator) -> LayerWeights:
    def draw(tensor: LayerTensor) -> Tensor:
        drawn = _draw(generator, *tensor.shape)
        return 1 + drawn if tensor.field.endswith("norm") else drawn

    return assemble_layer((tensor.field, draw(tensor)) for tensor in list_layer(config))


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return DEVIATION * torch.randn(*shape, generator=generator)
