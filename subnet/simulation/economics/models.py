"""The models whose answers the table of cheats compares, with the scales of their layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from consensus.challenge import ModelShape
from consensus.protocol_params import MAINNET
from mesh.assets import SHIPPED_MODEL_NAME
from mesh.model.calibrate import choose_scale
from mesh.model.cheats import Cheats
from mesh.model.config import load_config, parse_config
from mesh.model.files import resolve_known_model
from mesh.model.margins import name_layer
from mesh.model.random_weights import draw_weights
from mesh.model.weights import ShardWeights, load_shard
from subnet.simulation.economics.answers import ModelAnswers

WIDE_LAYERS = 2
"""Enough to answer with the layer before."""
SCALE_SEEDS = tuple(hashlib.sha256(b"scale" + bytes([number])).digest() for number in range(3))
WIDE_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": WIDE_LAYERS,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def load_shipped() -> ModelAnswers:
    """Return what the shipped model answers, by torch."""
    folder = resolve_known_model(SHIPPED_MODEL_NAME)
    config = load_config(folder.source)
    return _make_answers(load_shard(folder, config, start=0, end=config.num_layers))


def make_wide() -> ModelAnswers:
    """Return what a random model of TinyLlama's width answers, by torch; about 0.5 GB."""
    return _make_answers(draw_weights(parse_config(WIDE_CONFIG), seed=1))


def _make_answers(weights: ShardWeights) -> ModelAnswers:
    """Return the answers at the scales that a manifest of the model would state."""
    config, cheats = weights.config, Cheats(weights)
    shape = ModelShape(config.num_layers, config.hidden_size, config.vocab_size)
    unscaled = ModelAnswers(cheats, shape, MAINNET)
    scales = tuple(_choose_scales(unscaled, shape))
    return ModelAnswers(cheats, replace(shape, scales=scales), MAINNET)


def _choose_scales(answers: ModelAnswers, shape: ModelShape) -> Iterator[int]:
    for layer in shape.challenged_layers:
        found = [answers.answer("honest", seed, layer) for seed in SCALE_SEEDS]
        yield choose_scale(
            [vector for vector in found if vector is not None],
            name_layer(layer, shape.num_layers),
            MAINNET.fixed_point_bits,
            MAINNET.value_bound_bits,
        )
