"""The forward pass of Llama-like decoders, over rows of many sessions at once.

Rows of a step are laid side by side [rows, hidden]; a Segment says which session's tokens they
are. Matrix products run over all rows together, attention session by session over that
session's own pages of the cache (mesh/model/attention.py).

**What a row's result depends on.** Attention is computed alone for each session, so only the
matrix products could see the batch. Which kernels give a row the same bits beside any others is
tried when a runner is made (mesh/model/products.py); a deterministic runner's decode rows take only
those. Prompt chunks never mix sessions, so theirs do not depend on a crowd at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.attention import Attention, LayerCache, PagedCache, Segment, make_attention
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.mlp import run_mlp
from mesh.model.products import Products
from mesh.model.quantise import Multiply, multiply_rows
from mesh.model.rotary import compute_rotary_frequencies
from mesh.model.thread_bits import keeps_bits
from mesh.model.weights import LayerWeights, ShardWeights

MAX_CONSTANTS = 16


class RotaryTable:
    """Cosines and sines of every position, computed in float64 and rounded once.

    The sine's first half is negated, so that rotation is ``x * cos + swap_halves(x) * sin``.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        frequencies = compute_rotary_frequencies(config.rope, config.head_dim)
        positions = torch.arange(config.max_context, dtype=torch.float64)
        angles = torch.outer(positions, frequencies)
        scale = config.rope.attention_factor or 1.0
        cos, sin = angles.cos() * scale, angles.sin() * scale
        self.cos = torch.cat((cos, cos), dim=-1).to(device, dtype)
        self.sin = torch.cat((-sin, sin), dim=-1).to(device, dtype)


Attend = Callable[[Tensor, Tensor], Tensor]
"""(queries [rows, heads, dim], keys and then values [rows, 2 * kv_heads, dim]) -> [rows, heads *
dim].
"""


def run_layer(
    config: ModelConfig,
    weights: LayerWeights,
    x: Tensor,
    *,
    cos: Tensor,
    sin: Tensor,
    attend: Attend,
    multiply: Multiply = multiply_rows,
) -> Tensor:
    """Run one transformer layer over ``x`` [rows, hidden]; cos and sin are [rows, 1, dim]."""
    mixed = _run_attention(config, weights, x, cos=cos, sin=sin, attend=attend, multiply=multiply)
    x = mixed.add_(x)
    return _run_mlp(config, weights, x, multiply, is_smooth=False).add_(x)


def compute_addition(
    config: ModelConfig,
    weights: LayerWeights,
    x: Tensor,
    *,
    cos: Tensor,
    sin: Tensor,
    attend: Attend,
    multiply: Multiply = multiply_rows,
) -> Tensor:
    """Return what one layer adds to ``x`` [rows, hidden]: attention's output plus the MLP's.

    It is not the layer's output less its input: that difference would keep the rounding of a sum
    that may be hundreds of times larger. Of experts at the edge of a router's choice it takes a
    part, so that honest machines agree (mesh/model/mlp.py).
    """
    mixed = _run_attention(config, weights, x, cos=cos, sin=sin, attend=attend, multiply=multiply)
    return _run_mlp(config, weights, mixed + x, multiply, is_smooth=True).add_(mixed)


def _run_attention(
    config: ModelConfig,
    weights: LayerWeights,
    x: Tensor,
    *,
    cos: Tensor,
    sin: Tensor,
    attend: Attend,
    multiply: Multiply,
) -> Tensor:
    rows = x.shape[0]
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    normed = rms_norm(x, weights.attention_norm, config.norm_epsilon)
    qkv = multiply(normed, weights.qkv, weights.qkv_bias).view(rows, heads + 2 * kv_heads, dim)
    turned = qkv[:, : heads + kv_heads]
    if weights.query_norm is not None and weights.key_norm is not None:
        queries, keys = turned[:, :heads], turned[:, heads:]
        queries.copy_(rms_norm(queries, weights.query_norm, config.norm_epsilon))
        keys.copy_(rms_norm(keys, weights.key_norm, config.norm_epsilon))
    swapped = turned.roll(dim // 2, -1)
    # In place: the products are a tensor of their own, so nothing else is turned.
    turned.mul_(cos).add_(swapped.mul_(sin))
    mixed = attend(qkv[:, :heads], qkv[:, heads:])
    return multiply(mixed, weights.out, weights.out_bias)


def _run_mlp(
    config: ModelConfig, weights: LayerWeights, x: Tensor, multiply: Multiply, *, is_smooth: bool
) -> Tensor:
    normed = rms_norm(x, weights.mlp_norm, config.norm_epsilon)
    return run_mlp(config.experts, weights, normed, multiply, is_smooth=is_smooth)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension, then scaled in x's type.

    Float64 keeps its accuracy; every other type is normed in float32. On a GPU it is one kernel.
    """
    if x.device.type == "cuda":
        return F.rms_norm(x, x.shape[-1:], weight, epsilon)
    if x.dtype == torch.float64:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight
    # In few kernels: of a small model's step they are a good part.
    wide = x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    least = _make_constant(epsilon, x.device)
    scale = torch.addcmul(least, norm, norm, value=1 / x.shape[-1]).rsqrt_()
    if norm.numel() == 1:
        # A number without dimensions leaves x's type, and the product is rounded to it once, too.
        return (x * scale.squeeze()).mul_(weight)
    return (wide * scale).to(x.dtype).mul_(weight)


@lru_cache(maxsize=MAX_CONSTANTS)
def _make_constant(value: float, device: torch.device) -> Tensor:
    """Return a float32 scalar; making one anew costs as much as a kernel."""
    return torch.tensor(value, dtype=torch.float32, device=device)


def _attend_in(attention: Attention, cache: LayerCache) -> Attend:
    """Return the attention over one layer's cache; it stores the rows' keys and values first."""

    def attend(queries: Tensor, keys_and_values: Tensor) -> Tensor:
        attention.store(cache.both, keys_and_values)
        return attention.attend(queries, cache.keys, cache.values)

    return attend


class ShardRunner:
    """Runs steps over a shard's layers. Used from the one compute thread only."""

    def __init__(
        self,
        weights: ShardWeights,
        *,
        cache_tokens: int,
        deterministic: bool = False,
        has_scratch_page: bool = False,
    ) -> None:
        self.weights = weights
        self._products = Products(weights, deterministic=deterministic)
        self.cache = PagedCache(weights, tokens=cache_tokens, has_scratch_page=has_scratch_page)
        self._rotary = RotaryTable(weights.config, dtype=weights.dtype, device=weights.device)

    def keeps_bits(self, threads: Sequence[int]) -> bool:
        """Whether decode rows have the same bits with each of these numbers of torch's threads."""
        return keeps_bits(self.weights, self._products, threads)

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Return the embedding rows [tokens, hidden] of the first range."""
        if self.weights.embedding is None:
            raise ValueError("this range does not start at layer 0")
        index = torch.tensor(token_ids, dtype=torch.long, device=self.weights.device)
        return F.embedding(index, self.weights.embedding)

    def forward(self, x: Tensor, segments: Sequence[Segment], *, start: int, end: int) -> Tensor:
        """Run layers ``[start, end)`` over ``x`` [rows, hidden]; the rows fill the cache.

        Raises ValueError for a block table that does not fit the cache.
        """
        self.cache.check_tables(segments)
        attention = make_attention(segments, device=x.device)
        multiply = self._products.choose(x.shape[0], are_decodes=all(s.rows == 1 for s in segments))
        return self._run_layers(x, attention, multiply, LayerSpan(start, end))

    def run_layers(self, x: Tensor, attention: Attention) -> Tensor:
        """Run all layers over decode rows ``x`` [rows, hidden].

        The tables of ``attention`` are the caller's to check.
        """
        span = LayerSpan(self.weights.start, self.weights.end)
        multiply = self._products.choose(x.shape[0], are_decodes=True)
        return self._run_layers(x, attention, multiply, span)

    def _run_layers(
        self, x: Tensor, attention: Attention, multiply: Multiply, span: LayerSpan
    ) -> Tensor:
        cos = attention.look_up(self._rotary.cos).unsqueeze(1)
        sin = attention.look_up(self._rotary.sin).unsqueeze(1)
        for layer in range(span.start, span.end):
            attend = _attend_in(attention, self.cache.get_layer(layer))
            layer_weights = self.weights.get_layer(layer)
            x = run_layer(
                self.weights.config,
                layer_weights,
                x,
                cos=cos,
                sin=sin,
                attend=attend,
                multiply=multiply,
            )
        return x

    def compute_logits(self, x: Tensor, *, are_decodes: bool = True) -> Tensor:
        """Final norm and head over ``x`` [rows, hidden]: float32 [rows, vocabulary].

        ``are_decodes`` says that the rows are of different sessions, not of one prompt.
        """
        head = self.weights.head
        if head is None:
            raise ValueError("this range does not end at the last layer")
        normed = self._norm(x)
        multiply = self._products.choose(x.shape[0], are_decodes=are_decodes)
        return multiply(normed, head, None).float()

    def norm_last(self, x: Tensor) -> Tensor:
        """Final norm over ``x`` [rows, hidden]: float32, the model's last hidden states."""
        return self._norm(x).float()

    def _norm(self, x: Tensor) -> Tensor:
        if self.weights.final_norm is None:
            raise ValueError("this range does not end at the last layer")
        return rms_norm(x, self.weights.final_norm, self.weights.config.norm_epsilon)
