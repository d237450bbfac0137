"""Mistral: Llama with a sliding window. llama.cpp calls it llama."""

from __future__ import annotations

from mesh.model.family import Family, Traits, read_window
from mesh.model.fields import Fields


def read_traits(fields: Fields) -> Traits:
    return Traits(window=read_window(fields))


MISTRAL = Family("MistralForCausalLM", read_traits)
