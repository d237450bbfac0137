"""Phi-3, Phi-3.5 and Phi-4: query, key and value are stored joined, and so are gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.model.family import Family, LayerList, LayerTensor, Traits, read_window
from mesh.model.fields import Fields

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig


def read_traits(fields: Fields) -> Traits:
    # Early files call LongRoPE so; transformers reads them alike.
    return Traits(window=read_window(fields), rope_names={"su": "longrope", "yarn": "longrope"})


def list_layer(config: ModelConfig) -> LayerList:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    return (
        LayerTensor("attention_norm", "input_layernorm.weight", (hidden,)),
        LayerTensor("qkv", "self_attn.qkv_proj.weight", (queries + 2 * keys, hidden)),
        LayerTensor("out", "self_attn.o_proj.weight", (hidden, queries)),
        LayerTensor("mlp_norm", "post_attention_layernorm.weight", (hidden,)),
        LayerTensor("gate_up", "mlp.gate_up_proj.weight", (2 * inner, hidden)),
        LayerTensor("down", "mlp.down_proj.weight", (hidden, inner)),
    )


PHI3 = Family("Phi3ForCausalLM", read_traits, list_layer, gguf_name="phi3")
