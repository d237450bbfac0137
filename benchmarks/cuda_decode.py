"""Decoding on a GPU: static shapes in a CUDA graph, against transformers eager and the bound.

The bound is memory bandwidth: every token reads every weight once. It is measured by copying.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.swarm import Shape, make_checkpoint

NEW_TOKENS = 128
ROUNDS = 5
COPY_BYTES = 1 << 30
COPIES = 20


def measure_cuda(shape: Shape, log: Callable[[str], None]) -> None:
    """Measure if a GPU is at hand, and otherwise say that nothing was run."""
    import torch

    if not torch.cuda.is_available():
        log("not run: CUDA (no GPU is at hand)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(shape, Path(scratch) / "model")
        _compare(shape, folder, log)


def _compare(shape: Shape, folder: Path, log: Callable[[str], None]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.static_decode import StaticDecoder
    from mesh.model.weights import load_shard

    config = load_config(folder)
    weights = load_shard(
        resolve_model_folder(str(folder)),
        config,
        start=0,
        end=config.num_layers,
        dtype=shape.dtype,
        device="cuda",
    )
    model = AutoModelForCausalLM.from_pretrained(folder).eval().to("cuda")
    prompt = shape.make_prompt(shape.prompt)
    with torch.inference_mode():
        decoder = StaticDecoder(weights, capacity=shape.prompt + NEW_TOKENS)
        decoder.capture()
        runs = {
            "transformers eager": lambda: _generate(model, prompt),
            "mesh, CUDA graph": lambda: decoder.generate(prompt, NEW_TOKENS),
        }
        for name, run in runs.items():
            speeds = [NEW_TOKENS / _time(run) for _ in range(ROUNDS + 1)][1:]
            log(f"CUDA, {name}: {statistics.median(speeds):.1f} tokens/s")
    bound = _measure_bandwidth() / _read_per_token(weights)
    log(f"CUDA, memory-bandwidth bound: {bound:.1f} tokens/s on {torch.cuda.get_device_name()}")


def _generate(model: Any, prompt: list[int]) -> None:
    import torch

    ids = torch.tensor([prompt], device="cuda")
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )


def _time(run: Callable[[], object]) -> float:
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _measure_bandwidth() -> float:
    """Return bytes a second: a copy reads and writes each of its bytes."""
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)

    def copy() -> None:
        for _ in range(COPIES):
            target.copy_(source)

    return 2 * COPY_BYTES * COPIES / _time(copy)


def _read_per_token(weights: Any) -> int:
    """Return the bytes that one token reads: every matrix, of the embedding one row."""
    layers = [
        getattr(layer, name).nbytes
        for layer in weights.layers
        for name in type(layer).__slots__
        if getattr(layer, name) is not None
    ]
    return sum(layers) + int(weights.head.nbytes)
