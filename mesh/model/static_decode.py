"""Greedy decoding with static shapes: one kernel sequence for every token, so that a GPU can replay
it as a CUDA graph without the host in between.

Attention runs over the whole cache under a mask, positions live on the device, and the chosen
token feeds itself. For one session that holds all layers; the engine's batches stay dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.llama import KVCache, RotaryTable, rms_norm, run_layer
from mesh.model.weights import ShardWeights

WARM_UP_STEPS = 3
"""Steps before the capture: libraries choose kernels and allocate in the first ones."""


class StaticDecoder:
    """Decodes one session of at most ``capacity`` tokens. Use it under ``torch.inference_mode``."""

    def __init__(self, weights: ShardWeights, *, capacity: int) -> None:
        if weights.embedding is None or weights.final_norm is None or weights.head is None:
            raise ValueError("static decoding needs the whole model")
        device = weights.device
        self._weights = weights
        self._embedding, self._final_norm = weights.embedding, weights.final_norm
        self._head = weights.head
        self._capacity = capacity
        self._cache = KVCache(weights, tokens=capacity)
        self._rotary = RotaryTable(weights.config, dtype=weights.dtype, device=device)
        self._places = torch.arange(capacity, device=device)
        # What a step reads and writes: always the same memory.
        self._token = torch.zeros(1, dtype=torch.long, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def capture(self) -> None:
        """Record the step as a CUDA graph; from then on a step is one launch."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._position.zero_()
                self._run_step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run_step()
        self._graph = graph

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return ``count`` greedy tokens. The prompt goes through the same steps, one by one.

        Raises ValueError when they do not fit into the capacity.
        """
        if len(prompt) + count > self._capacity:
            raise ValueError(f"{len(prompt)} and {count} tokens exceed {self._capacity}")
        self._position.zero_()
        given = torch.tensor(prompt, device=self._token.device)
        chosen = torch.empty(count, dtype=torch.long, device=self._token.device)
        for place in range(len(prompt)):
            self._token.copy_(given[place : place + 1])
            self._step()
        for index in range(count):
            chosen[index : index + 1].copy_(self._token)
            if index + 1 < count:
                self._step()
        found: list[int] = chosen.tolist()
        return found

    def _step(self) -> None:
        if self._graph is None:
            self._run_step()
        else:
            self._graph.replay()

    def _run_step(self) -> None:
        """Compute the token at the position; leave the next token and the next position."""
        weights, config = self._weights, self._weights.config
        x = F.embedding(self._token, self._embedding)
        cos = self._rotary.cos[self._position].unsqueeze(1)
        sin = self._rotary.sin[self._position].unsqueeze(1)
        mask = (self._places <= self._position).unsqueeze(0)
        for layer in range(weights.start, weights.end):
            attend = _StaticAttention(*self._cache.get_layer(layer), self._position, mask)
            x = run_layer(config, weights.get_layer(layer), x, cos=cos, sin=sin, attend=attend)
        normed = rms_norm(x, self._final_norm, config.norm_epsilon)
        self._token.copy_(F.linear(normed, self._head).float().argmax(dim=-1))
        self._position.add_(1)


class _StaticAttention:
    """Attention of one row over the whole cache of one layer, [kv_heads, capacity, dim] each."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor, mask: Tensor) -> None:
        self._keys = keys
        self._values = values
        self._position = position
        self._mask = mask

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self._keys.index_copy_(1, self._position, keys.transpose(0, 1))
        self._values.index_copy_(1, self._position, values.transpose(0, 1))
        _, heads, dim = queries.shape
        kv_heads = self._keys.shape[0]
        grouped = queries.reshape(1, kv_heads, heads // kv_heads, dim)
        mixed = F.scaled_dot_product_attention(
            grouped, self._keys.unsqueeze(0), self._values.unsqueeze(0), attn_mask=self._mask
        )
        return mixed.reshape(1, heads * dim)
