"""Whether a CPU's number of threads changes the bits of decode rows: tried when a node starts.

What can depend on it are the kernels that divide one sum between threads, or choose another order
when they are alone: products, and in float32 attention, whose kernel adds otherwise with one thread
than with several (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mesh.model.attention import attend_text
from mesh.model.products import TRIED_SIZES, Products, Trial, list_shapes
from mesh.model.weights import ShardWeights

TEXT_LENGTHS = (17, 1000)
_SEED = 29


@torch.inference_mode()
def keeps_bits(weights: ShardWeights, products: Products, threads: Sequence[int]) -> bool:
    """Whether decode rows have the same bits with each of these numbers of torch's threads.

    ``weights`` are on the CPU. The calling thread's number is as before afterwards.
    """
    before = torch.get_num_threads()
    try:
        return _keeps_attention(weights, threads) and _keeps_products(weights, products, threads)
    finally:
        torch.set_num_threads(before)


def _are_alike(compute: Callable[[], Tensor], threads: Sequence[int]) -> bool:
    found = []
    for number in threads:
        torch.set_num_threads(number)
        found.append(compute())
    return all(torch.equal(one, found[0]) for one in found)


def _keeps_attention(weights: ShardWeights, threads: Sequence[int]) -> bool:
    config, generator = weights.config, torch.Generator().manual_seed(_SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(weights.dtype)

    for length in TEXT_LENGTHS:
        queries = draw(1, config.num_heads, config.head_dim)
        keys, values = (draw(config.num_kv_heads, length, config.head_dim) for _ in range(2))
        attend = partial(attend_text, queries, keys, values, mask=None, is_fused=False)
        if not _are_alike(attend, threads):
            return False
    return True


def _keeps_products(weights: ShardWeights, products: Products, threads: Sequence[int]) -> bool:
    for like in list_shapes(weights).values():
        trial = Trial.make(like[0], weights)
        x = trial.repeat_rows()
        for size in (1, *TRIED_SIZES):
            multiply = products.choose(size, are_decodes=True)
            if not _are_alike(partial(multiply, x[:size], trial.matrix, None), threads):
                return False
    return True
