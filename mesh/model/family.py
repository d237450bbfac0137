"""What a family of models says of itself: the numbers of its config.json and a layer's tensors.

The list of a layer's tensors is spelled once. Which tensors a range reads, how they are joined,
what is quantised, how many bytes a layer takes and what random weights look like follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mesh.model.fields import MAX_CONTEXT, Fields, read_positive

if TYPE_CHECKING:
    from mesh.model.config import ModelConfig


MATRICES = ("qkv", "out", "gate_up", "down")
"""Fields of LayerWeights that are quantised."""


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """One tensor of a layer, by its name in a checkpoint after ``model.layers.N.``.

    ``field`` is what it becomes in LayerWeights; tensors of one field are joined by rows, in the
    order of the list. Matrices of experts are a stack, [experts, rows, columns].
    """

    field: str
    name: str
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether it is quantised."""
        return self.field in MATRICES


LayerList = tuple[LayerTensor, ...]


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """How many experts a layer has, and how many of them a row takes.

    ``is_normalised`` says that the shares of those add up to 1.
    """

    count: int
    chosen: int
    is_normalised: bool


@dataclass(frozen=True, slots=True)
class Traits:
    """What one config.json says that not all families have.

    ``window`` is a sliding window in tokens, if one is used; ``rope_names`` are kinds of rotary
    scaling that the family calls otherwise than READERS of mesh/model/rope.py. ``inner_size_name``
    is what config.json calls the width within the MLP, or within each expert.
    """

    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    rope_names: Mapping[str, str] = field(default_factory=dict)
    experts: ExpertsConfig | None = None
    inner_size_name: str = "intermediate_size"


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

    ``gguf_name`` is what llama.cpp calls it, if its files can be read; ``describe_gguf`` returns
    what config.json has beyond what all families share, from the fields of a GGUF file by their
    names after the architecture's. ``read_traits`` raises UnknownArchitecture or ModelError.
    """

    architecture: str
    read_traits: Callable[[Fields], Traits]
    list_layer: Callable[[ModelConfig], LayerList] = list_plain_layer
    gguf_name: str | None = None
    describe_gguf: Callable[[Callable[[str], Any]], dict[str, Any]] = lambda find: {}


def read_window(fields: Fields) -> int | None:
    """Return the sliding window in tokens, None without one. Raises ModelError."""
    if fields.get("sliding_window") is None:
        return None
    return read_positive(fields, "sliding_window", MAX_CONTEXT)


def read_optional_window(fields: Fields) -> int | None:
    """Return the sliding window where ``use_sliding_window`` asks for it. Raises ModelError."""
    return read_window(fields) if fields.get("use_sliding_window") else None
