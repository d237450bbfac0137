"""Qwen3: a norm on the queries and keys of each head."""

from __future__ import annotations

from mesh.model.family import Family, Traits, read_optional_window
from mesh.model.fields import Fields


def read_traits(fields: Fields) -> Traits:
    attention_bias = bool(fields.get("attention_bias", False))
    return Traits(
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        qk_norm=True,
        window=read_optional_window(fields),
    )


QWEN3 = Family("Qwen3ForCausalLM", read_traits, gguf_name="qwen3")
