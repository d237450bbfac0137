"""What a model's config.json says, in the words that the rest of mesh uses.

mesh/model/families has one file for each architecture; others are refused by name. No torch here:
the command line checks a model before anything heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import (
    LayerRangeOutsideModel,
    ModelError,
    ModelFilesMissing,
    QuantisedCheckpoint,
    UnknownArchitecture,
)
from mesh.model.families import find_family, list_architectures
from mesh.model.family import ExpertsConfig
from mesh.model.fields import (
    MAX_CONTEXT,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Fields,
    read_number,
    read_positive,
)
from mesh.model.rope import RopeConfig, read_rope

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, order=True, slots=True)
class LayerSpan:
    """Half-open range of transformer layers, ``[start, end)``."""

    start: int
    end: int

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.end

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: LayerSpan) -> bool:
        """Say whether ``other`` lies within this span."""
        return self.start <= other.start < other.end <= self.end


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The architecture numbers of one decoder-only model.

    ``max_context`` is in tokens; ``intermediate_size`` is the width within the MLP, or within each
    of the ``experts``, which are None where a layer has no router. ``stored_dtype`` is the
    checkpoint's own type, for information.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm_epsilon: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...]
    stored_dtype: str
    experts: ExpertsConfig | None = None

    @property
    def cache_values_per_token(self) -> int:
        """Numbers that one token occupies in one layer's cache: a key and a value."""
        return 2 * self.num_kv_heads * self.head_dim

    def check_layer_range(self, start: int, end: int) -> None:
        """Raise LayerRangeOutsideModel unless ``[start, end)`` lies within the model."""
        if not 0 <= start < end <= self.num_layers:
            raise LayerRangeOutsideModel(
                f"blocks {start}:{end} are not within the model's {self.num_layers} blocks "
                f"(half-open, 0:{self.num_layers} is all)"
            )


def load_config(source: Path) -> ModelConfig:
    """Read config.json and generation_config.json of a model folder, or a GGUF file's header.

    Raises ModelFilesMissing, UnknownArchitecture or ModelError.
    """
    if source.is_file():
        # Here only: other checkpoints need no gguf.
        from mesh.model.gguf_config import load_gguf_config

        return load_gguf_config(source)
    fields = read_json_object(source / "config.json")
    generation_file = source / "generation_config.json"
    generation = read_json_object(generation_file) if generation_file.is_file() else {}
    return parse_config(fields, generation=generation)


def read_config_fields(source: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.json, or what a GGUF file says in their names.

    Raises ModelFilesMissing, UnknownArchitecture or ModelError.
    """
    if source.is_file():
        from mesh.model.gguf_config import read_gguf_fields

        return read_gguf_fields(source)
    return read_json_object(source / "config.json")


def read_json_object(path: Path, *, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a small JSON object. Raises ModelFilesMissing or ModelError."""
    if not path.is_file():
        raise ModelFilesMissing(f"{path.name} is not in {path.parent}")
    if path.stat().st_size > max_bytes:
        raise ModelError(f"{path.name} is larger than {max_bytes} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} is not a JSON object")
    return value


def parse_config(fields: Fields, *, generation: Fields | None = None) -> ModelConfig:
    """Turn the fields of config.json into a ModelConfig.

    Raises UnknownArchitecture naming what is not supported, QuantisedCheckpoint or ModelError.
    """
    architecture = _architecture(fields)
    family = find_family(architecture)
    if family is None:
        known = ", ".join(list_architectures())
        raise UnknownArchitecture(f"{architecture} is not supported; supported are {known}")
    quantisation = fields.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
        raise QuantisedCheckpoint(f"config.json says that the weights are quantised ({method})")
    if fields.get("hidden_act", "silu") != "silu":
        raise UnknownArchitecture(f"{architecture} with activation {fields['hidden_act']}")
    num_heads = read_positive(fields, "num_attention_heads", MAX_WIDTH)
    num_kv_heads = read_positive(fields, "num_key_value_heads", MAX_WIDTH, default=num_heads)
    hidden_size = read_positive(fields, "hidden_size", MAX_WIDTH)
    if num_heads % num_kv_heads:
        raise ModelError(f"{num_heads} heads do not share {num_kv_heads} key-value heads evenly")
    head_dim = read_positive(
        fields, "head_dim", MAX_WIDTH, default=max(1, hidden_size // num_heads)
    )
    if head_dim % 2:
        raise ModelError(f"rotary positions need an even head_dim, not {head_dim}")
    traits = family.read_traits(fields)
    rope = read_rope(architecture, fields, head_dim=head_dim, names=traits.rope_names)
    return ModelConfig(
        architecture=architecture,
        num_layers=read_positive(fields, "num_hidden_layers", MAX_LAYERS),
        hidden_size=hidden_size,
        intermediate_size=read_positive(fields, traits.inner_size_name, MAX_WIDTH),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=read_positive(fields, "vocab_size", MAX_VOCABULARY),
        max_context=_context(fields, rope, traits.window),
        norm_epsilon=read_number(fields, "rms_norm_eps", 1e-6),
        rope=rope,
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        qkv_bias=traits.qkv_bias,
        out_bias=traits.out_bias,
        mlp_bias=traits.mlp_bias,
        qk_norm=traits.qk_norm,
        eos_token_ids=_eos(fields, generation or {}),
        stored_dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
        experts=traits.experts,
    )


def _architecture(fields: Fields) -> str:
    named = fields.get("architectures")
    if isinstance(named, list) and len(named) == 1 and isinstance(named[0], str):
        return named[0]
    raise UnknownArchitecture(f"config.json names no single architecture: {named!r:.80}")


def _context(fields: Fields, rope: RopeConfig, window: int | None) -> int:
    """Cut the context at the sliding window: up to there attention is the full one."""
    context = rope.limit_context(read_positive(fields, "max_position_embeddings", MAX_CONTEXT))
    return context if window is None else min(context, window)


def _optional_token(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _eos(fields: Fields, generation: Fields) -> tuple[int, ...]:
    """Return the end tokens; generation_config.json knows more of them than config.json."""
    value = generation.get("eos_token_id", fields.get("eos_token_id"))
    listed = value if isinstance(value, list) else [value]
    return tuple(token for token in map(_optional_token, listed) if token is not None)
