"""What small checkpoints of the families need beside the numbers that all of them share."""

from __future__ import annotations

from typing import Any

EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    # Routers choose clearly, and experts act on the residual stream.
    "initializer_range": 0.2,
}
PHI: dict[str, Any] = {"pad_token_id": 0}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.25, 2.0, 5.5],
    "long_factor": [1.5, 3.0, 6.0, 9.0],
}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": EXPERTS,
    "Phi3ForCausalLM": PHI,
}
