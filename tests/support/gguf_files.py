"""GGUF files made from small checkpoints, as llama.cpp's converter makes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
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
}
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
    _add_tensors(writer, load_file(folder / "model.safetensors"), config, architecture, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_numbers(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    head_dim = config["head_dim"] or config["hidden_size"] // config["num_attention_heads"]
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
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
        used = kind if values.dim() == 2 else GGMLQuantizationType.F32
        writer.add_tensor(stored, quantize(values.numpy(), used), raw_dtype=used)


def turn(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn the rows of each head, as llama.cpp's converter does for its kind of rotation."""
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape).contiguous()
