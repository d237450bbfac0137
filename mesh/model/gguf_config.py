"""What config.json would say of a model that is in a GGUF file.

llama.cpp's names become Hugging Face's, so that the limits and refusals of mesh/model/config.py
hold for both. What would change a layer's output and is not known here is refused by name:
experts where a family has none, other rotary scaling, tensors that no family has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import ModelError, ModelFilesMissing, UnknownArchitecture
from mesh.model.config import ModelConfig, parse_config
from mesh.model.families import FAMILIES
from mesh.model.families.mistral import MISTRAL
from mesh.model.fields import MAX_NUMBER, MAX_WIDTH
from mesh.model.gguf_file import GgufFile, Value, read_gguf
from mesh.model.gguf_tensors import get_gguf_name, read_vector
from mesh.model.rope import DEFAULT_ROPE_THETA, ORIGINAL_CONTEXT
from mesh.model.tensors import list_range_tensors

GGUF_FAMILIES = {family.gguf_name: family for family in FAMILIES.values() if family.gguf_name}
"""By GGUF's ``general.architecture``. llama.cpp calls Mistral llama."""
ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
YARN_CHANGES = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor")
"""Fields after ``rope.scaling.`` by which llama.cpp computes YaRN otherwise, unless they are 1."""
END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192
"""What every Llama 3 scales its rotary positions by; files have only the factors that follow."""
FACTOR_TOLERANCE = 1e-3
"""Relative. The program that wrote the file computed its factors in float32."""


def load_gguf_config(path: Path) -> ModelConfig:
    """Read a file's configuration. Raises ModelFilesMissing, UnknownArchitecture or ModelError."""
    file = read_gguf(path)
    try:
        config = parse_config(describe_fields(file))
    except ModelError as error:
        raise type(error)(str(error).replace("config.json", path.name)) from error
    _check_tensors(file, config)
    return config


def read_gguf_fields(path: Path) -> dict[str, Any]:
    """Return what config.json would hold. Raises as load_gguf_config."""
    return describe_fields(read_gguf(path))


def describe_fields(file: GgufFile) -> dict[str, Any]:
    """Return a header's numbers under the names of config.json."""
    architecture = file.fields.get("general.architecture")
    if architecture not in GGUF_FAMILIES:
        raise UnknownArchitecture(
            f"{file.path.name} has the architecture {architecture!r:.40}; "
            f"GGUF files of {', '.join(GGUF_FAMILIES)} are supported"
        )
    if file.fields.get("split.count", 1) not in (0, 1):
        raise ModelError(
            f"{file.path.name} is one of several parts; join them with llama-gguf-split --merge"
        )
    keys = _Keys(file, str(architecture))
    more = GGUF_FAMILIES[architecture].describe_gguf(keys.find)
    if keys.find("expert_count") and "num_experts" not in more:
        raise UnknownArchitecture(f"{file.path.name} is a {architecture} with experts")
    shape = _describe_shape(keys)
    fields = {
        **shape,
        **more,
        "architectures": [_name_family(keys)],
        "rope_parameters": _describe_rope(keys, shape["head_dim"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": keys.has("blk.0.attn_output.bias"),
        "mlp_bias": keys.has("blk.0.ffn_gate.bias"),
        "eos_token_id": _list_end_tokens(file),
        "bos_token_id": file.fields.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": file.fields.get("tokenizer.ggml.padding_token_id"),
        # What quantised blocks are widened to, and no type that a file mixes in is wider.
        "dtype": "float32",
    }
    window = keys.find("attention.sliding_window")
    if window:
        fields |= {"sliding_window": window, "use_sliding_window": True}
    return fields


def _list_end_tokens(file: GgufFile) -> list[int]:
    found = [file.fields.get(f"tokenizer.ggml.{name}") for name in END_TOKENS]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))


class _Keys:
    """A header's fields of one architecture."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self.architecture = architecture

    def find(self, name: str) -> Value:
        """Return a field, None without it; a list of equal numbers, one a layer, is that number."""
        value = self.file.fields.get(f"{self.architecture}.{name}")
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        return _shorten(value) if isinstance(value, float) else value

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors


def _shorten(value: float) -> float:
    """Return the shortest decimal of a float32, which its maker was given: 1e-05, not 9.99…e-06."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _name_family(keys: _Keys) -> str:
    if keys.architecture == "llama" and keys.find("attention.sliding_window"):
        return MISTRAL.architecture
    return GGUF_FAMILIES[keys.architecture].architecture


def _describe_shape(keys: _Keys) -> dict[str, Any]:
    embedding = keys.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelFilesMissing(f"{keys.file.path.name} has no tensor token_embd.weight")
    heads, hidden = keys.find("attention.head_count"), keys.find("embedding_length")
    head_dim = keys.find("attention.key_length")
    if head_dim is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        head_dim = hidden // heads
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.find(name) not in (None, head_dim):
            raise UnknownArchitecture(
                f"{keys.file.path.name} has {name} {keys.find(name)} with heads of {head_dim}"
            )
    return {
        "num_hidden_layers": keys.find("block_count"),
        "hidden_size": hidden,
        "intermediate_size": keys.find("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.find("attention.head_count_kv"),
        "head_dim": head_dim,
        # Metadata may count other tokens than those that have a row.
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": keys.find("context_length"),
        "rms_norm_eps": keys.find("attention.layer_norm_rms_epsilon"),
    }


def _describe_rope(keys: _Keys, head_dim: Any) -> dict[str, Any]:
    """Return rotary parameters as transformers has them."""
    theta = keys.find("rope.freq_base") or DEFAULT_ROPE_THETA
    factor = keys.find("rope.scaling.factor") or keys.find("rope.scale_linear") or 1.0
    # llama.cpp takes a factor without a type for the linear one.
    kind = keys.find("rope.scaling.type") or ("none" if factor == 1.0 else "linear")
    if not isinstance(kind, str):
        raise ModelError(f"{keys.file.path.name} has the rotary scaling {kind!r:.40}")
    if keys.has(ROPE_FACTORS):
        if kind != "none":
            raise UnknownArchitecture(f"{keys.file.path.name} scales rotary positions twice")
        return {"rope_theta": theta, **_recognise_llama3(keys.file, theta, head_dim)}
    if keys.has(SHORT_FACTORS):
        return {"rope_theta": theta, **_describe_longrope(keys, head_dim)}
    if kind == "none":
        return {"rope_theta": theta, "rope_type": "default"}
    described = {"rope_theta": theta, "rope_type": f"{kind:.40}", "factor": factor}
    return described | (_describe_yarn(keys) if kind == "yarn" else {})


def _describe_yarn(keys: _Keys) -> dict[str, Any]:
    for name in YARN_CHANGES:
        if keys.find(f"rope.scaling.{name}") not in (None, 1):
            raise UnknownArchitecture(f"{keys.file.path.name} scales by YaRN with {name}")
    return {
        ORIGINAL_CONTEXT: keys.find("rope.scaling.original_context_length"),
        "beta_fast": keys.find("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.find("rope.scaling.yarn_beta_slow"),
    }


def _describe_longrope(keys: _Keys, head_dim: Any) -> dict[str, Any]:
    factors = read_vector(keys.file, SHORT_FACTORS, _halve(keys.file, head_dim))
    return {
        "rope_type": "longrope",
        "short_factor": [_shorten(float(factor)) for factor in factors],
        "attention_factor": keys.find("rope.scaling.attn_factor"),
        ORIGINAL_CONTEXT: keys.find("rope.scaling.original_context_length"),
    }


def _halve(file: GgufFile, head_dim: Any) -> int:
    """Return how many frequencies a head has. Raises ModelError."""
    if not isinstance(head_dim, int) or not 1 < head_dim <= MAX_WIDTH:
        raise ModelError(f"{file.path.name} has heads of {head_dim!r:.40} numbers")
    return head_dim // 2


def _recognise_llama3(file: GgufFile, theta: Any, head_dim: Any) -> Mapping[str, Any]:
    """Return Llama 3's parameters where a file's factors follow from them.

    A file has one factor for each frequency, and the largest is the model's. Raises
    UnknownArchitecture for others.
    """
    found = read_vector(file, ROPE_FACTORS, _halve(file, head_dim))
    factor = _shorten(float(found.max()))
    is_usable = isinstance(theta, int | float) and 0 < theta <= MAX_NUMBER and 1 < factor < math.inf
    if not is_usable or not np.allclose(
        found, compute_llama3_factors(theta, len(found), factor), rtol=FACTOR_TOLERANCE
    ):
        raise UnknownArchitecture(f"{file.path.name} has rotary factors that are not Llama 3's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_CONTEXT,
    }


def compute_llama3_factors(theta: float, count: int, factor: float) -> NDArray[np.float64]:
    """Return by what Llama 3 divides each of ``count`` frequencies."""
    wavelengths = 2 * math.pi * theta ** (np.arange(count, dtype=np.float64) / count)
    blend = (LLAMA3_CONTEXT / wavelengths - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)
    # Below 0 a wavelength is long, above 1 it is short.
    blend = np.clip(blend, 0, 1)
    factors: NDArray[np.float64] = 1 / ((1 - blend) / factor + blend)
    return factors


def _check_tensors(file: GgufFile, config: ModelConfig) -> None:
    """Refuse a file with tensors that this architecture does not compute with."""
    known = {
        get_gguf_name(str(file.fields["general.architecture"]), name)
        for name in list_range_tensors(config, 0, config.num_layers)
    }
    rotary = {SHORT_FACTORS, LONG_FACTORS} if config.rope.divisors else {ROPE_FACTORS}
    unknown = sorted(file.tensors.keys() - known - rotary)
    if unknown:
        raise UnknownArchitecture(
            f"{file.path.name} has the tensor {unknown[0]!r:.80}, "
            f"which {config.architecture} does not have"
        )
