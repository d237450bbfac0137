"""One layer alone, in float32: what a hoster answers a challenge with.

The answer is what the layer adds to its input, so that a cheat shows relative to the layer's own
work: relative to input plus work, int8 weights of a layer that adds little would pass. Weights are
cast up layer by layer, TF32 stays off, attention is two plain products around a softmax, and only
the last position leaves, which depends on all of them through attention. Honest machines then
agree to about 4e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mesh.model.config import ModelConfig
from mesh.model.llama import RotaryTable, compute_addition, rms_norm
from mesh.model.quantise import Multiply, multiply_rows
from mesh.model.weights import LayerWeights, ShardWeights

AttendText = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries [positions, heads, dim], keys and values [positions, kv_heads, dim]) -> [positions,
heads * dim].
"""


class ChallengeTask(Protocol):
    """One challenged layer, as the node hands it over.

    ``hidden`` is float32 [positions, hidden_size]; ``token_ids`` come with layer 0 only and
    ``head_rows`` with the layer after the last one only.
    """

    @property
    def layer(self) -> int: ...
    @property
    def hidden(self) -> NDArray[np.float32]: ...
    @property
    def token_ids(self) -> NDArray[np.int64] | None: ...
    @property
    def head_rows(self) -> NDArray[np.int64] | None: ...


def use_exact_float32() -> None:
    """Keep float32 products in float32 on every device (TF32 and bfloat16 passes off)."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def run_challenge_layer(
    weights: ShardWeights, layer: int, hidden: Tensor, *, token_ids: Tensor | None = None
) -> Tensor:
    """Return what ``layer`` adds to the last position of float32 ``hidden`` [positions, hidden].

    ``token_ids`` [positions] are added to the input as embedding rows (layer 0 only).
    """
    x = hidden.to(weights.device, torch.float32)
    if token_ids is not None:
        if weights.embedding is None:
            raise ValueError("token ids are challenged where the range starts at layer 0")
        x = x + F.embedding(token_ids.to(weights.device), weights.embedding).float()
    wide = weights.get_layer(layer).cast(torch.float32)
    return compute_last_addition(weights.config, wide, x)


def compute_last_addition(
    config: ModelConfig,
    weights: LayerWeights,
    x: Tensor,
    *,
    attend: AttendText | None = None,
    multiply: Multiply = multiply_rows,
) -> Tensor:
    """Return what a layer adds to the last of the positions ``x`` [positions, hidden], in x's type.

    ``attend`` is another kernel than the plain one, for measuring how far it differs.
    """

    def attend_all(queries: Tensor, keys_and_values: Tensor) -> Tensor:
        keys, values = keys_and_values.chunk(2, dim=1)
        return (attend or attend_plainly)(queries, keys, values)

    short = replace(config, max_context=x.shape[0])
    rotary = RotaryTable(short, dtype=x.dtype, device=x.device)
    added = compute_addition(
        config,
        weights,
        x,
        cos=rotary.cos.unsqueeze(1),
        sin=rotary.sin.unsqueeze(1),
        attend=attend_all,
        multiply=multiply,
    )
    return added[-1]


def attend_plainly(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of one text by two products and a softmax: [positions, heads * dim].

    Queries are [positions, heads, dim], keys and values [positions, kv_heads, dim]. Fused kernels
    are not used: some of them multiply in a narrower type than their input's.
    """
    positions, heads, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.view(positions, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    weights = grouped @ keys.permute(1, 2, 0).unsqueeze(1) / math.sqrt(dim)
    future = torch.ones(positions, positions, dtype=torch.bool, device=queries.device).triu(1)
    weights = weights.masked_fill(future, float("-inf")).softmax(-1)
    mixed = weights @ values.transpose(0, 1).unsqueeze(1)
    return mixed.permute(2, 0, 1, 3).reshape(positions, heads * dim)


def run_challenge_head(weights: ShardWeights, hidden: Tensor, rows: Tensor) -> Tensor:
    """Final norm and the logits ``rows`` of the last position of float32 ``hidden``."""
    if weights.final_norm is None or weights.head is None:
        raise ValueError("the head is challenged where the range ends at the last layer")
    x = hidden.to(weights.device, torch.float32)
    head, chosen = weights.head, rows.to(weights.device)
    if isinstance(head, Tensor):
        head_rows = head[chosen].float()
    else:
        head_rows = head.widen_rows(chosen, torch.float32)
    return compute_last_logits(weights.config, weights.final_norm.float(), head_rows, x)


def compute_last_logits(
    config: ModelConfig, final_norm: Tensor, head_rows: Tensor, x: Tensor
) -> Tensor:
    """Return the logits of ``head_rows`` [rows, hidden] at the last position of ``x``."""
    return F.linear(rms_norm(x[-1:], final_norm, config.norm_epsilon), head_rows)[0]
