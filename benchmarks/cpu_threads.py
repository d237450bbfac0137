"""What a second thread gains and costs a neighbour: fixed and chosen, sleeping and looking.

    python benchmarks/cpu_threads.py             a table, SmolLM2-135M in bfloat16
    python benchmarks/cpu_threads.py --json      one JSON object
    python benchmarks/cpu_threads.py --rounds 2 --new 64   a short look

Each line is a pair of engines in processes of their own. ``alone``: one answers; ``two``: both
answer at once, and their tokens a second are added up. Threads that wait for the next kernel sleep
at once with 0, else they look for it so many times before (GOMP_SPINCOUNT). ``chosen``: the engine
takes one thread or two, whichever is faster (mesh/inference/thread_choice.py), as nodes do. It
needs some steps to notice that a neighbour came or went, which short answers show most. All lines
take turns, round by round; a figure is the median, a ratio the median of the rounds' ratios to the
first line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cpu_models import Model, make_small
from benchmarks.cpu_worker import Contestant, start_python

PROMPT_TOKENS = 16
WARM_UP_TOKENS = 4


@dataclass
class Line:
    """Two engines with the same threads, and what they reached."""

    threads: int
    spins: int
    is_chosen: bool
    engines: tuple[Contestant, Contestant]
    alone: list[float] = field(default_factory=list)
    two: list[float] = field(default_factory=list)

    def measure(self, prompt: list[int], new: int) -> None:
        first, second = self.engines
        self.alone.append(new / first.answer(prompt, new).total_s)
        for engine in self.engines:
            engine.ask(prompt, new)
        times = [engine.finish(new).total_s for engine in self.engines]
        self.two.append(sum(new / time_s for time_s in times))


@contextmanager
def open_lines(model: Model, spins: Sequence[int]) -> Iterator[list[Line]]:
    """Start the engines: with one thread first, then with two."""
    with ExitStack() as stack:

        def start(threads: int, count: int, is_chosen: bool) -> Contestant:
            environment = {"GOMP_SPINCOUNT": str(count)}
            kind = "none" if is_chosen else "fixed"
            return stack.enter_context(start_python(model.folder, threads, kind, environment))

        kinds = [(1, 0, False)]
        kinds += [(2, count, is_chosen) for is_chosen in (False, True) for count in spins]
        yield [Line(*kind, (start(*kind), start(*kind))) for kind in kinds]


def describe(line: Line, first: Line) -> dict[str, float | int]:
    def compare(ours: Sequence[float], theirs: Sequence[float]) -> float:
        return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)

    return {
        "threads": line.threads,
        "spins": line.spins,
        "chosen": line.is_chosen,
        "alone": round(statistics.median(line.alone), 1),
        "alone_ratio": compare(line.alone, first.alone),
        "two": round(statistics.median(line.two), 1),
        "two_ratio": compare(line.two, first.two),
    }


def run(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, float | int]]:
    model = make_small(scratch)
    prompt = model.make_prompt(PROMPT_TOKENS)
    with open_lines(model, arguments.spins) as lines:
        for line in lines:
            for engine in line.engines:
                engine.answer(prompt, WARM_UP_TOKENS)
        for _ in range(arguments.rounds):
            for line in lines:
                line.measure(prompt, arguments.new)
    return [describe(line, lines[0]) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--spins", type=int, nargs="+", default=[0, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=192, help="new tokens of an answer")
    parser.add_argument("--scratch", type=Path, help="keep the model in this folder")
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as temporary:
        found = run(arguments, arguments.scratch or Path(temporary))
    if arguments.json:
        print(json.dumps({"load_before": load, "results": found}))
        return
    print(
        f"load {load} on {os.cpu_count()} cores before\n"
        "threads          spins   alone  ratio     two  ratio"
    )
    for one in found:
        kind = "chosen" if one["chosen"] else "fixed"
        columns = (one["threads"], kind, one["spins"], one["alone"], one["alone_ratio"])
        print("{:7} {:6} {:7} {:7} {:6}".format(*columns), f"{one['two']:7} {one['two_ratio']:6}")


if __name__ == "__main__":
    main()
