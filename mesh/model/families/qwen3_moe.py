"""Qwen3-MoE: Qwen3's attention, and in place of the MLP experts, some of which each row takes.

Checkpoints store a matrix for each expert; here those of one kind are one stack
(mesh/model/tensors.py), as GGUF stores them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mesh.errors import ModelError, UnknownArchitecture
from mesh.model.families.qwen3 import QWEN3
from mesh.model.family import (
    ExpertsConfig,
    Family,
    LayerList,
    LayerTensor,
    Traits,
    list_attention,
)
from mesh.model.fields import Fields, read_positive

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig

MAX_EXPERTS = 1024


def read_traits(fields: Fields) -> Traits:
    if fields.get("mlp_only_layers") or fields.get("decoder_sparse_step", 1) != 1:
        raise UnknownArchitecture("Qwen3MoeForCausalLM with layers that have no experts")
    count = read_positive(
        fields, "num_local_experts" if "num_local_experts" in fields else "num_experts", MAX_EXPERTS
    )
    chosen = read_positive(fields, "num_experts_per_tok", MAX_EXPERTS)
    if chosen > count:
        raise ModelError(f"config.json: a row takes {chosen} of {count} experts")
    experts = ExpertsConfig(count, chosen, bool(fields.get("norm_topk_prob", False)))
    return replace(
        QWEN3.read_traits(fields), experts=experts, inner_size_name="moe_intermediate_size"
    )


def list_layer(config: ModelConfig) -> LayerList:
    if config.experts is None:
        raise ValueError("a layer of Qwen3-MoE has experts")
    count, hidden, inner = config.experts.count, config.hidden_size, config.intermediate_size
    wide, narrow = (count, inner, hidden), (count, hidden, inner)
    return (
        *list_attention(config),
        LayerTensor("mlp_norm", "post_attention_layernorm.weight", (hidden,)),
        LayerTensor("router", "mlp.gate.weight", (count, hidden)),
        LayerTensor("gate_up", "mlp.experts.gate_proj.weight", wide),
        LayerTensor("gate_up", "mlp.experts.up_proj.weight", wide),
        LayerTensor("down", "mlp.experts.down_proj.weight", narrow),
    )


def describe_gguf(find: Callable[[str], Any]) -> dict[str, Any]:
    return {
        "num_experts": find("expert_count"),
        "num_experts_per_tok": find("expert_used_count"),
        "moe_intermediate_size": find("expert_feed_forward_length"),
        # No field says so; llama.cpp always normalises.
        "norm_topk_prob": True,
    }


QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM",
    read_traits,
    list_layer,
    gguf_name="qwen3moe",
    describe_gguf=describe_gguf,
)
