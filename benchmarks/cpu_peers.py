"""How fast one session decodes on a CPU, beside llama.cpp and transformers.

    python benchmarks/cpu_peers.py                  everything, as a table
    python benchmarks/cpu_peers.py --json           one JSON object
    python benchmarks/cpu_peers.py --skip-large     without TinyLlama's shape (8 GB of memory)
    python benchmarks/cpu_peers.py --rounds 1 --threads 1 --new 8   a short look

First, once: cd benchmarks/llama && npm ci --omit=optional --ignore-scripts

SmolLM2-135M has real weights: its GGUF file in Q4_1, and a checkpoint and a GGUF file in bfloat16
made from it. TinyLlama's shape has random ones, stored in the same three ways. Every contestant is
a process that holds its model ready; they take turns, round by round, so that a busy machine
disturbs all alike. A figure is the median over the rounds, a ratio the median of the rounds'
ratios, each with the lowest and the highest round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cpu_models import Model, make_large, make_small
from benchmarks.cpu_worker import Contestant, start_llama, start_python

LLAMA_BF16, LLAMA_Q4 = "llama.cpp bf16", "llama.cpp Q4_1"
ENGINE_BF16, ENGINE_INT4 = "engine bf16", "engine int4"
TRANSFORMERS = "transformers bf16"
PROMPT_TOKENS = 16
WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Goal:
    """A ratio of two contestants' tokens a second and the least that is wanted, by threads."""

    name: str
    ours: str
    theirs: str
    least: Mapping[int, float]


SMALL_GOALS = (
    Goal("bf16 / llama.cpp bf16", ENGINE_BF16, LLAMA_BF16, {1: 0.95, 2: 0.85}),
    Goal("int4 / llama.cpp Q4_1", ENGINE_INT4, LLAMA_Q4, {1: 0.5, 2: 0.5}),
    Goal("bf16 / transformers bf16", ENGINE_BF16, TRANSFORMERS, {1: 1.5, 2: 1.5}),
)
LARGE_GOALS = (
    Goal("bf16 / llama.cpp bf16", ENGINE_BF16, LLAMA_BF16, {1: 1.0, 2: 1.0}),
    Goal("int4 / llama.cpp Q4_1", ENGINE_INT4, LLAMA_Q4, {1: 0.7, 2: 0.7}),
)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def open_contestants(
    model: Model, goals: Sequence[Goal], threads: int
) -> Iterator[dict[str, Contestant]]:
    """Start those that the goals name with this number of threads, one after the other."""
    starts = {
        LLAMA_BF16: lambda: start_llama(model.bf16_gguf, threads),
        LLAMA_Q4: lambda: start_llama(model.q4_gguf, threads),
        ENGINE_BF16: lambda: start_python(model.folder, threads, "none"),
        ENGINE_INT4: lambda: start_python(model.folder, threads, "int4"),
        TRANSFORMERS: lambda: start_python(model.folder, threads, "transformers"),
    }
    wanted = {name for goal in goals for name in (goal.ours, goal.theirs)}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(start()) for name, start in starts.items() if name in wanted
        }


def measure(
    model: Model, goals: Sequence[Goal], threads: int, rounds: int, new: int
) -> dict[str, list[float]]:
    """Return each contestant's tokens a second, one number a round."""
    prompt = model.make_prompt(PROMPT_TOKENS)
    speeds: dict[str, list[float]] = {}
    with open_contestants(model, goals, threads) as contestants:
        for contestant in contestants.values():
            contestant.answer(prompt, WARM_UP_TOKENS)
        for number in range(rounds):
            for name, contestant in contestants.items():
                answer = contestant.answer(prompt, new)
                speeds.setdefault(name, []).append(new / answer.total_s)
            log(f"  round {number + 1} of {rounds}")
    return speeds


def describe(values: Sequence[float]) -> dict[str, float]:
    found = (statistics.median(values), min(values), max(values))
    return dict(zip(("median", "lowest", "highest"), (round(v, 3) for v in found), strict=True))


def report(model: Model, goals: Sequence[Goal], threads: int, speeds: dict[str, list[float]]):
    """Return one comparison's figures, as --json prints them."""
    ratios = {}
    for goal in goals:
        pairs = zip(speeds[goal.ours], speeds[goal.theirs], strict=True)
        found = describe([ours / theirs for ours, theirs in pairs])
        ratios[goal.name] = {**found, "goal": goal.least.get(threads)}
    return {
        "model": model.name,
        "threads": threads,
        "tokens_per_second": {name: describe(values) for name, values in speeds.items()},
        "ratios": ratios,
    }


def run(arguments: argparse.Namespace, scratch: Path) -> list[dict]:
    """Measure both models with each number of threads."""
    kinds = []
    if not arguments.skip_small:
        kinds.append((make_small, SMALL_GOALS, arguments.rounds or 7, arguments.new or 64))
    if not arguments.skip_large:
        kinds.append((make_large, LARGE_GOALS, arguments.rounds or 3, arguments.new or 16))
    found = []
    for make, goals, rounds, new in kinds:
        model = make(scratch)
        for threads in arguments.threads:
            log(f"{model.name}, {threads} thread(s), {new} new tokens, {rounds} rounds")
            speeds = measure(model, goals, threads, rounds, new)
            found.append(report(model, goals, threads, speeds))
    return found


def print_tables(results: Sequence[dict]) -> None:
    for result in results:
        print(f"\n{result['model']}, {result['threads']} thread(s)")
        for name, figure in result["tokens_per_second"].items():
            spread = f"{figure['lowest']:.1f} to {figure['highest']:.1f}"
            print(f"  {name:24} {figure['median']:8.1f} tokens/s  ({spread})")
        for name, ratio in result["ratios"].items():
            spread = f"{ratio['lowest']:.2f} to {ratio['highest']:.2f}"
            goal = "" if ratio["goal"] is None else f", goal {ratio['goal']}"
            print(f"  {name:24} {ratio['median']:8.2f}           ({spread}{goal})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (7 and 3)")
    parser.add_argument("--new", type=int, help="new tokens of an answer (64 and 16)")
    parser.add_argument("--skip-small", action="store_true", help="without SmolLM2-135M")
    parser.add_argument("--skip-large", action="store_true", help="without TinyLlama's shape")
    parser.add_argument("--scratch", type=Path, help="keep the models in this folder")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    log(f"load {load:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        results = run(arguments, arguments.scratch or Path(temporary))
    if arguments.json:
        print(json.dumps({"load_before": round(load, 2), "results": results}))
    else:
        print_tables(results)


if __name__ == "__main__":
    main()
