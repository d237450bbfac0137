"""One layer alone, in float32: what a hoster answers a challenge with.

Weights are cast up layer by layer, TF32 stays off, and only the last position leaves, which
depends on all of them through attention. Honest machines then agree to about 3e-6.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.llama import RotaryTable, attend_grouped, rms_norm, run_layer
from mesh.model.weights import ShardWeights


def use_exact_float32() -> None:
    """Keep float32 products in float32 on every device (TF32 and bfloat16 passes off)."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run_challenge_layer(
    weights: ShardWeights, layer: int, hidden: Tensor, *, token_ids: Tensor | None = None
) -> Tensor:
    """Run ``layer`` over float32 ``hidden`` [positions, hidden_size]; return the last position.

    ``token_ids`` [positions] are added as embedding rows (layer 0 only).
    """
    config = weights.config
    x = hidden.to(weights.device, torch.float32)
    if token_ids is not None:
        if weights.embedding is None:
            raise ValueError("token ids are challenged where the range starts at layer 0")
        x = x + F.embedding(token_ids.to(weights.device), weights.embedding).float()
    positions = x.shape[0]
    short = replace(config, max_context=positions)
    rotary = RotaryTable(short, dtype=torch.float32, device=weights.device)
    mask = torch.ones(positions, positions, dtype=torch.bool, device=weights.device).tril()

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend_grouped(queries, keys.transpose(0, 1), values.transpose(0, 1), mask=mask)

    cos, sin = rotary.cos.unsqueeze(1), rotary.sin.unsqueeze(1)
    wide = weights.get_layer(layer).cast(torch.float32)
    return run_layer(config, wide, x, cos=cos, sin=sin, attend=attend)[-1]


def run_challenge_head(weights: ShardWeights, hidden: Tensor, rows: Tensor) -> Tensor:
    """Final norm and the logits ``rows`` of the last position of float32 ``hidden``."""
    if weights.final_norm is None or weights.head is None:
        raise ValueError("the head is challenged where the range ends at the last layer")
    x = hidden[-1:].to(weights.device, torch.float32)
    normed = rms_norm(x, weights.final_norm.float(), weights.config.norm_epsilon)
    head_rows = weights.head[rows.to(weights.device)].float()
    return F.linear(normed, head_rows)[0]
