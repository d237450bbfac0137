"""Llama, and what llama.cpp calls so."""

from __future__ import annotations

from mesh.model.family import Family, Traits
from mesh.model.fields import Fields


def read_traits(fields: Fields) -> Traits:
    attention_bias = bool(fields.get("attention_bias", False))
    return Traits(
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )


LLAMA = Family("LlamaForCausalLM", read_traits, gguf_name="llama")
