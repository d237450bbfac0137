"""GGUF files made from small checkpoints, as llama.cpp's converter makes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    RopeScalingType,
    get_tensor_name_map,
    quantize,
)
from numpy.typing import NDArray
from safetensors.torch import load_file

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "Phi3ForCausalLM": "phi3",
}
EXPERT = r"\.experts\.(\d+)\."
TOKENS = ("<pad>", "<s>", "</s>")


def write_gguf(
    folder: Path,
    target: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    change: Callable[[GGUFWriter], None] = lambda writer: None,
    rope_factors: NDArray[np.float32] | None = None,
    architecture: str | None = None,
) -> Path:
    """Write a checkpoint's single safetensors file as GGUF; its matrices as ``kind``.

    ``change`` may add fields; returns ``target``.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = architecture or ARCHITECTURES[config["architectures"][0]]
    writer = GGUFWriter(target, architecture)
    _add_numbers(writer, config)
    change(writer)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors)
    tensors = stack_experts(load_file(folder / "model.safetensors"))
    _add_tensors(writer, tensors, config, architecture, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_numbers(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    _add_rope(writer, config["rope_parameters"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tokens = [*TOKENS, *(f"t{number}" for number in range(3, config["vocab_size"]))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(TOKENS) + [1] * (len(tokens) - len(TOKENS)))
    writer.add_token_merges(["t 3"])


def _add_rope(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    if "original_max_position_embeddings" in rope:
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "longrope":
        for name in ("long", "short"):
            factors = np.array(rope[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)


def stack_experts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with those of a layer's experts as one stack of each kind."""
    stacks: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors, key=_read_expert):
        stacks.setdefault(re.sub(EXPERT, ".experts.", name), []).append(tensors[name])
    return {
        name: torch.stack(parts) if ".experts." in name else parts[0]
        for name, parts in stacks.items()
    }


def _read_expert(name: str) -> int:
    found = re.search(EXPERT, name)
    return int(found[1]) if found else 0


def _add_tensors(
    writer: GGUFWriter,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    architecture: str,
    kind: GGMLQuantizationType,
) -> None:
    (known,) = (key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(known, config["num_hidden_layers"])
    for name, tensor in tensors.items():
        values = tensor.float()
        if architecture == "llama" and ".q_proj." in name:
            values = turn(values, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            values = turn(values, config["num_key_value_heads"])
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        used = kind if values.dim() > 1 else GGMLQuantizationType.F32
        writer.add_tensor(stored, quantize(values.numpy(), used), raw_dtype=used)


def turn(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn the rows of each head, as llama.cpp's converter does for its kind of rotation."""
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape).contiguous()
