"""Qwen2 and Qwen2.5: biases on query, key and value."""

from __future__ import annotations

from mesh.model.family import Family, Traits, read_optional_window
from mesh.model.fields import Fields


def read_traits(fields: Fields) -> Traits:
    return Traits(qkv_bias=True, window=read_optional_window(fields))


QWEN2 = Family("Qwen2ForCausalLM", read_traits, gguf_name="qwen2")
