"""Weights of an untrained Llama-style model, to measure what depends on a model's width."""

from __future__ import annotations

import torch
from torch import Tensor

from mesh.model.config import ModelConfig
from mesh.model.weights import LayerWeights, ShardWeights

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
    hidden, inner, queries = (
        config.hidden_size,
        config.intermediate_size,
        config.num_heads * config.head_dim,
    )
    return LayerWeights(
        attention_norm=1 + _draw(generator, hidden),
        qkv=_draw(generator, queries + 2 * config.num_kv_heads * config.head_dim, hidden),
        qkv_bias=None,
        query_norm=None,
        key_norm=None,
        out=_draw(generator, hidden, queries),
        out_bias=None,
        mlp_norm=1 + _draw(generator, hidden),
        gate_up=_draw(generator, 2 * inner, hidden),
        gate_up_bias=None,
        down=_draw(generator, hidden, inner),
        down_bias=None,
    )


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return DEVIATION * torch.randn(*shape, generator=generator)
