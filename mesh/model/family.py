"""What a family of models says of itself: the numbers of its config.json and a layer's tensors.

The list of a layer's tensors is spelled once. Which tensors a range reads, how they are joined,
what int8 quantises, how many bytes a layer takes and what random weights look like follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.model.fields import MAX_CONTEXT, Fields, read_positive

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig


MATRICES = ("qkv", "out", "gate_up", "down")
"""Fields of LayerWeights that int8 quantises."""


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """One tensor of a layer, by its name in a checkpoint after ``model.layers.N.``.

    ``field`` is what it becomes in LayerWeights; tensors of one field are joined by rows, in the
    order of the list.
    """

    field: str
    name: str
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether int8 quantises it."""
        return self.field in MATRICES


LayerList = tuple[LayerTensor, ...]


@dataclass(frozen=True, slots=True)
class Traits:
    """What one config.json says that not all families have.

    ``window`` is a sliding window in tokens, if one is used.
    """

    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None


def list_attention(config: ModelConfig) -> LayerList:
    """Return the attention's norm and products, query, key and value stored apart."""
    hidden, dim = config.hidden_size, config.head_dim
    queries, keys = config.num_heads * dim, config.num_kv_heads * dim
    rows = {"q": queries, "k": keys, "v": keys}
    tensors = [LayerTensor("attention_norm", "input_layernorm.weight", (hidden,))]
    tensors += [
        LayerTensor("qkv", f"self_attn.{part}_proj.weight", (count, hidden))
        for part, count in rows.items()
    ]
    if config.qkv_bias:
        tensors += [
            LayerTensor("qkv_bias", f"self_attn.{part}_proj.bias", (count,))
            for part, count in rows.items()
        ]
    if config.qk_norm:
        tensors.append(LayerTensor("query_norm", "self_attn.q_norm.weight", (dim,)))
        tensors.append(LayerTensor("key_norm", "self_attn.k_norm.weight", (dim,)))
    tensors.append(LayerTensor("out", "self_attn.o_proj.weight", (hidden, queries)))
    if config.out_bias:
        tensors.append(LayerTensor("out_bias", "self_attn.o_proj.bias", (hidden,)))
    return tuple(tensors)


def list_mlp(config: ModelConfig) -> LayerList:
    """Return the MLP's norm and products, gate and up stored apart."""
    hidden, inner = config.hidden_size, config.intermediate_size
    tensors = [LayerTensor("mlp_norm", "post_attention_layernorm.weight", (hidden,))]
    tensors += [
        LayerTensor("gate_up", f"mlp.{part}_proj.weight", (inner, hidden))
        for part in ("gate", "up")
    ]
    tensors.append(LayerTensor("down", "mlp.down_proj.weight", (hidden, inner)))
    if config.mlp_bias:
        tensors += [
            LayerTensor("gate_up_bias", f"mlp.{part}_proj.bias", (inner,))
            for part in ("gate", "up")
        ]
        tensors.append(LayerTensor("down_bias", "mlp.down_proj.bias", (hidden,)))
    return tuple(tensors)


def list_plain_layer(config: ModelConfig) -> LayerList:
    """Return a layer as Llama stores it."""
    return list_attention(config) + list_mlp(config)


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of config.json.

    ``gguf_name`` is what llama.cpp calls it, if its files can be read; ``read_traits`` raises
    UnknownArchitecture or ModelError.
    """

    architecture: str
    read_traits: Callable[[Fields], Traits]
    list_layer: Callable[[ModelConfig], LayerList] = list_plain_layer
    gguf_name: str | None = None


def read_window(fields: Fields) -> int | None:
    """Return the sliding window in tokens, None without one. Raises ModelError."""
    if fields.get("sliding_window") is None:
        return None
    return read_positive(fields, "sliding_window", MAX_CONTEXT)


def read_optional_window(fields: Fields) -> int | None:
    """Return the sliding window where ``use_sliding_window`` asks for it. Raises ModelError."""
    return read_window(fields) if fields.get("use_sliding_window") else None
