"""How fast a GPU serves, beside transformers and what its memory's bandwidth allows.

    python benchmarks/gpu.py                       everything, as a table
    python benchmarks/gpu.py --json                one JSON object
    python benchmarks/gpu.py --skip-p2p            without hosters in processes of their own
    python benchmarks/gpu.py --device cpu --tiny   tries the script itself, without a card

TinyLlama's shape in bfloat16 with random weights, greedy, prompts of 16 tokens and 64 new ones,
the time of the prompts included. It takes less than six minutes and no network; what there is no
time or no library for is null, and a line on stderr says so. The bound is the measured bandwidth
by the bytes of weights that one token reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in every hoster: as a node does.
wait_passively()

from benchmarks.swarm import TINYLLAMA, Shape, ask, make_checkpoint, open_swarm  # noqa: E402

NEEDED = ("torch", "transformers", "safetensors", "nacl", "base58")
"""What must be there; hosters in processes of their own take what a node takes."""
MAX_SECONDS = 330
PROMPT = 16
NEW = 64
LONG_PROMPT = 1024
SESSIONS = (1, 8, 32, 64)
COPIED_BYTES = 1 << 30
COPIES = 20
GOALS = {
    "sessions_1": 500,
    "sessions_8": 3_000,
    "sessions_32": 10_000,
    "sessions_64": 18_000,
    "first_token_1024_ms": 15,
    "p2p_one_range_1": 300,
    "p2p_one_range_8": 1_800,
    "p2p_two_ranges_1": 200,
    "p2p_two_ranges_8": 1_400,
}
"""On an H100: tokens a second in all, and milliseconds at most."""

LARGE = Shape(
    "TinyLlama-1.1B's shape",
    "bfloat16",
    TINYLLAMA,
    rounds=3,
    new=NEW,
    long_prompt=LONG_PROMPT,
)
TINY = replace(
    LARGE,
    name="a tiny shape",
    dtype="float32",
    rounds=1,
    new=8,
    config={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1_024,
        "max_position_embeddings": 2048,
    },
)

Figures = dict[str, float | None]


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find_obstacle(device: str) -> str | None:
    """Return why nothing can be measured, if so."""
    for module in NEEDED:
        if find_spec(module) is None:
            return f"{module} is not installed; the script needs {', '.join(NEEDED)}"
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        return "there is no CUDA device here; --device cpu --tiny tries the script without one"
    return None


def synchronise(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def measure_bandwidth(device: str) -> float:
    """Return bytes a second, read or written, of copies on the device."""
    import torch

    size = COPIED_BYTES if device != "cpu" else COPIED_BYTES >> 5
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    synchronise(device)
    started = time.perf_counter()
    for _ in range(COPIES):
        target.copy_(source)
    synchronise(device)
    return 2 * COPIES * size / (time.perf_counter() - started)


def measure_transformers(shape: Shape, folder: Path, device: str) -> float:
    """Return tokens a second of transformers' generate, one text."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, shape.dtype))
    model = model.to(device).eval()
    ids = torch.tensor([shape.make_prompt(PROMPT)], device=device)
    speeds = []
    for _ in range(1 + shape.rounds):
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=shape.new,
                min_new_tokens=shape.new,
                do_sample=False,
            )
        synchronise(device)
        speeds.append(shape.new / (time.perf_counter() - started))
    return statistics.median(speeds[1:])


async def answer(engine: Any, prompt: list[int], new: int) -> float:
    """Let the engine answer as it does for a client at a single range; return seconds to the first
    token.
    """
    from mesh.inference.accounts import OWN_ACCOUNT
    from mesh.inference.sampler import SampleRequest
    from mesh.inference.sampling import Sampling
    from mesh.inference.steps import StepInput

    told: list[float] = []
    sampling = Sampling()

    def make_step(token_ids: list[int], *, is_last: bool = True) -> StepInput:
        if not is_last:
            return StepInput(len(token_ids), token_ids=token_ids)
        return StepInput(
            len(token_ids),
            token_ids=token_ids,
            sample=SampleRequest(sampling, len(told)),
            follow=follow,
            goes_on=len(told) < new - 1,
        )

    def follow(output: Any) -> StepInput | None:
        told.append(time.perf_counter())
        return make_step([output.sampled.token_id]) if len(told) < new else None

    chunk, span = engine.limits.prefill_chunk, engine.layers
    started = time.perf_counter()
    with engine.admit(span, capacity=len(prompt) + new, account=OWN_ACCOUNT) as session:
        for first in range(0, len(prompt), chunk):
            piece = prompt[first : first + chunk]
            is_last = first + chunk >= len(prompt)
            await engine.submit(session, make_step(piece, is_last=is_last))
    return told[0] - started


async def measure_engine(
    shape: Shape, folder: Path, device: str, left: Callable[[], bool]
) -> Figures:
    """Return tokens a second in all for each number of sessions, and the time to a first token."""
    from mesh.inference.engine import Engine, EngineLimits
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.weights import load_shard

    config, located = load_config(folder), resolve_model_folder(str(folder))
    most = max(SESSIONS)
    limits = EngineLimits(
        cache_tokens=2 * most * (PROMPT + NEW),
        max_sessions=most,
        max_batch_rows=most,
        prefill_chunk=512,
        prefill_tokens=1024,
    )

    def load() -> Any:
        return load_shard(
            located, config, start=0, end=config.num_layers, dtype=shape.dtype, device=device
        )

    async with Engine.open(load, limits=limits, threads=2, use_graphs=True) as engine:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(engine.serve())
            found = await _measure_open(engine, shape, left)
            serving.cancel()
    return found


async def _measure_open(engine: Any, shape: Shape, left: Callable[[], bool]) -> Figures:
    found: Figures = {}
    for count in SESSIONS:
        log(f"in process, {count} sessions")
        prompts = [shape.make_prompt(PROMPT, shift=i) for i in range(count)]
        found[f"sessions_{count}"] = await measure_rounds(
            lambda prompts=prompts: crowd(engine, prompts, shape.new), shape.rounds, left
        )
    prompt = shape.make_prompt(LONG_PROMPT)
    seconds = await measure_rounds(lambda: answer(engine, prompt, 1), shape.rounds, left)
    found["first_token_1024_ms"] = None if seconds is None else 1e3 * seconds
    return found


async def crowd(engine: Any, prompts: list[list[int]], new: int) -> float:
    """Return tokens a second of some sessions together."""
    started = time.perf_counter()
    await asyncio.gather(*(answer(engine, prompt, new) for prompt in prompts))
    return len(prompts) * new / (time.perf_counter() - started)


async def measure_rounds(
    measure: Callable[[], Awaitable[float]], rounds: int, left: Callable[[], bool]
) -> float | None:
    """Return the median of some rounds after one that is not counted; None if time is over."""
    if not left():
        return None
    await measure()
    return statistics.median([await measure() for _ in range(rounds)])


async def measure_p2p(shape: Shape, folder: Path, left: Callable[[], bool]) -> Figures:
    """Return tokens a second of clients of one range and of two, each in a process of its own."""
    found: Figures = {}
    for ranges, name in ((1, "one_range"), (2, "two_ranges")):
        if not left():
            break
        async with open_swarm(shape, folder, ranges, threads=2) as swarm:

            async def ask_all(count: int, client: Any = swarm.client) -> float:
                prompts = [shape.make_prompt(PROMPT, shift=i) for i in range(count)]
                started = time.perf_counter()
                await asyncio.gather(*(ask(client, prompt, shape.new) for prompt in prompts))
                return count * shape.new / (time.perf_counter() - started)

            for count in (1, 8):
                log(f"{ranges} hosters, {count} clients")
                found[f"p2p_{name}_{count}"] = await measure_rounds(
                    lambda count=count, ask_all=ask_all: ask_all(count), shape.rounds, left
                )
    return found


def name_device(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device != "cpu" else platform.machine()


def count_read_bytes(folder: Path) -> int:
    """Return the bytes of weights that a token reads: all but the embedding's other rows."""
    from mesh.model.capacity import ServingFormat, compute_embedding_bytes, compute_weights_bytes
    from mesh.model.config import LayerSpan, load_config

    config = load_config(folder)
    form = ServingFormat(json.loads((folder / "config.json").read_text())["dtype"])
    whole = compute_weights_bytes(config, form, LayerSpan(0, config.num_layers))
    return whole - (0 if config.tie_word_embeddings else compute_embedding_bytes(config, form))


def measure(arguments: argparse.Namespace) -> Figures:
    """Measure what there is time for."""
    started, device = time.perf_counter(), arguments.device

    def left() -> bool:
        return time.perf_counter() - started < MAX_SECONDS * 0.8

    shape = replace(TINY if arguments.tiny else LARGE, device=device)
    figures: Figures = dict.fromkeys(("bandwidth_gb_s", "bound_1", "transformers_1", *GOALS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(shape, Path(scratch) / "model")
        figures["bandwidth_gb_s"] = bandwidth = measure_bandwidth(device) / 1e9
        figures["bound_1"] = bandwidth * 1e9 / count_read_bytes(folder)
        figures |= asyncio.run(measure_engine(shape, folder, device, left))
        if left():
            log("transformers")
            figures["transformers_1"] = measure_transformers(shape, folder, device)
        release(device)
        if arguments.skip_p2p:
            log("not run: hosters in processes of their own (--skip-p2p)")
        elif find_spec("hivemind") is None:
            log("not run: hosters in processes of their own (hivemind is not installed)")
        else:
            figures |= asyncio.run(measure_p2p(shape, folder, left))
    for name in [name for name, value in figures.items() if value is None]:
        log(f"not measured: {name}")
    log(f"{time.perf_counter() - started:.0f} s in all")
    return figures


def release(device: str) -> None:
    """Give the memory of what is no longer used back, for the hosters' processes."""
    import gc

    import torch

    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def print_table(figures: Figures, *, with_goals: bool) -> None:
    print(f"{'figure':24} {'measured':>12}" + (f" {'goal':>9}" if with_goals else ""))
    for name, value in figures.items():
        shown = "not measured" if value is None else f"{value:.1f}"
        goal = f" {GOALS.get(name, ''):>9}" if with_goals else ""
        print(f"{name:24} {shown:>12}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: tries the script only")
    parser.add_argument("--skip-p2p", action="store_true", help="without processes of their own")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu goes with --tiny; benchmarks/serving.py measures CPUs")
    obstacle = find_obstacle(arguments.device)
    if obstacle is not None:
        log(f"error: {obstacle}")
        raise SystemExit(1)
    import torch

    figures = measure(arguments)
    about = {"device": name_device(arguments.device), "torch": torch.__version__}
    log(f"{about['device']}, torch {about['torch']}, {TINY.name if arguments.tiny else LARGE.name}")
    if arguments.json:
        rounded = {k: None if v is None else round(v, 3) for k, v in figures.items()}
        print(json.dumps(about | rounded))
    else:
        print_table(figures, with_goals=not arguments.tiny)


if __name__ == "__main__":
    main()
