"""What an audit costs: one layer of TinyLlama's shape, read from a file and run on one core.

A checkpoint of that shape is written at random into a temporary folder; each kind of layer is then
audited in a process of its own, cold libraries and all. The time is that of the audit, from the
task to its answer, as the clock and as the processor see it (they part on a machine that does other
work too); the memory is the peak of the whole process, with torch in it.

python -m benchmarks.audit [--dtype bfloat16|float32] [--layers N] [--device D] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TIME_TARGET_S = 2.0
MEMORY_TARGET_GIB = 1.0
SEED = bytes(range(32))
BYTES = {"bfloat16": 2, "float32": 4}
STORED = {"bfloat16": "BF16", "float32": "F32"}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 22,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


@dataclass(frozen=True)
class Audit:
    """One audit in a process of its own."""

    layer: str
    dtype: str
    seconds: float
    cpu_seconds: float
    peak_gib: float
    length: int


def write_checkpoint(folder: Path, dtype: str, num_layers: int) -> None:
    """Write config.json and one safetensors file; all layers share one layer's random numbers."""
    import torch

    config = CONFIG | {"num_hidden_layers": num_layers, "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = dict(list_shapes(num_layers))
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = BYTES[dtype] * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {
            "dtype": STORED[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(7)
    made: dict[str, bytes] = {}
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            kind = name.split(".", 3)[-1] if ".layers." in name else name
            if kind not in made:
                noise = torch.randn(*shape, generator=generator)
                tensor = 1 + 0.02 * noise if len(shape) == 1 else 0.02 * noise
                made[kind] = tensor.to(getattr(torch, dtype)).view(torch.uint8).numpy().tobytes()
            file.write(made[kind])


def list_shapes(num_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor."""
    hidden, inner, vocabulary = 2048, 5632, 32_000
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}self_attn.k_proj.weight", (256, hidden)
        yield f"{prefix}self_attn.v_proj.weight", (256, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def audit_layer(folder: str, layer: int, device: str) -> dict[str, float]:
    """Run one audit here: what a child process does."""
    import torch

    from consensus.challenge import ModelShape
    from consensus.protocol_params import MAINNET
    from consensus.types import LayerRange
    from mesh.model.auditor import Auditor
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from subnet.epoch.hoster import build_tasks

    torch.set_num_threads(1)
    located = resolve_model_folder(folder)
    config = load_config(located.source)
    shape = ModelShape(config.num_layers, config.hidden_size, config.vocab_size)
    task = build_tasks(SEED, LayerRange(0, config.num_layers), shape, MAINNET)[layer]
    auditor = Auditor(located, config, device=device)
    started, cpu_started = time.perf_counter(), time.process_time()
    answer = auditor.answer(task)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_gib": peak,
        "length": len(answer),
    }


def run_child(folder: Path, layer: int, device: str) -> dict[str, Any]:
    """Audit one layer in a process of its own, kept to one core where the system can."""
    line = [sys.executable, "-m", "benchmarks.audit", "--child", str(folder), str(layer), device]

    def keep_to_one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    bind = keep_to_one_core if hasattr(os, "sched_setaffinity") else None
    run = subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True, preexec_fn=bind)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def measure(dtypes: list[str], num_layers: int, device: str) -> list[Audit]:
    """Write each checkpoint and audit its first layer, one in the middle, and its head."""
    audits = []
    for dtype in dtypes:
        with tempfile.TemporaryDirectory(prefix="mesh-audit-") as directory:
            write_checkpoint(Path(directory), dtype, num_layers)
            for layer, name in {0: "0", num_layers // 2: "middle", num_layers: "head"}.items():
                found = run_child(Path(directory), layer, device)
                audits.append(Audit(name, dtype, **found))
    return audits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=sorted(BYTES), action="append")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        folder, layer, device = options.child
        print(json.dumps(audit_layer(folder, int(layer), device)))
        return 0
    audits = measure(options.dtype or ["bfloat16", "float32"], options.layers, options.device)
    is_met = all(a.seconds < TIME_TARGET_S and a.peak_gib < MEMORY_TARGET_GIB for a in audits)
    if options.json:
        print(json.dumps({"audits": [asdict(audit) for audit in audits], "met": is_met}))
    else:
        print(
            f"{'layer':>8} {'dtype':>9} {'seconds':>8} {'of CPU':>7} {'peak GiB':>9} {'values':>7}"
        )
        for one in audits:
            print(
                f"{one.layer:>8} {one.dtype:>9} {one.seconds:8.2f} {one.cpu_seconds:7.2f} "
                f"{one.peak_gib:9.2f} {one.length:7}"
            )
        print(f"target: {TIME_TARGET_S:.0f} s and {MEMORY_TARGET_GIB:.0f} GiB on one core")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
