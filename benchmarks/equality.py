"""How many greedy tokens differ where docs/determinism.md does not promise equal bits.

    python -m benchmarks.equality                    the shipped model, as a table
    python -m benchmarks.equality MODEL --json       another one, one JSON object

Each session decodes alone first. Then the same text is computed in other ways, always with the
tokens of the first run as its text, so that one difference does not lead to others:

- *crowd*: all sessions decode in one step, with and without the deterministic option;
- *prompt*: the answer is computed again in chunks, as after its pages were lost;
- *threads*: alone with two threads instead of one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from mesh.model.attention import Segment
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.weights import load_shard

SHIPPED = Path(__file__).resolve().parent.parent / "mesh" / "assets" / "mesh-tiny"
TEXTS = (
    "How does one epoch work?",
    "What is a hoster, and who pays it?",
    "The capital of France is",
    "Write a short story about a river and a bridge.",
    "Why do two honest machines differ in the last bits of a number?",
    "List three things that a validator does.",
    "Once upon a time",
    "def main():",
)
KINDS = (("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4"))
NEW_TOKENS = 64
CHUNK = 16
SESSION_PAGES = 16


@dataclass
class Texts:
    """Sessions' prompts and the tokens that each answers alone."""

    prompts: list[list[int]]
    answers: list[list[int]]

    @property
    def count(self) -> int:
        return sum(len(answer) for answer in self.answers)

    def count_differing(self, found: Sequence[Sequence[int]]) -> int:
        pairs = zip(self.answers, found, strict=True)
        return sum(a != b for mine, other in pairs for a, b in zip(mine, other, strict=True))


class Bench:
    """One runner and the ways to compute a text with it."""

    def __init__(self, model: str, dtype: str, quant_type: str, *, deterministic: bool) -> None:
        located = resolve_model_folder(model)
        config = load_config(located.source)
        shard = load_shard(
            located, config, start=0, end=config.num_layers, dtype=dtype, quant_type=quant_type
        )
        tokens = len(TEXTS) * SESSION_PAGES * PAGE_TOKENS
        self._runner = ShardRunner(shard, cache_tokens=tokens, deterministic=deterministic)
        self._layers = config.num_layers

    def answer_alone(self, prompts: list[list[int]]) -> Texts:
        answers = []
        for place, prompt in enumerate(prompts):
            tokens = [self._prefill(place, prompt)]
            while len(tokens) < NEW_TOKENS:
                position = len(prompt) + len(tokens) - 1
                tokens += self._step([(place, position, tokens[-1])])
            answers.append(tokens)
        return Texts(prompts, answers)

    def follow_alone(self, texts: Texts) -> list[list[int]]:
        return [self._follow(texts, [place])[0] for place in range(len(texts.prompts))]

    def follow_in_a_crowd(self, texts: Texts) -> list[list[int]]:
        return self._follow(texts, range(len(texts.prompts)))

    def read_as_prompt(self, texts: Texts) -> list[list[int]]:
        """Compute each whole text in chunks and return the likeliest token after each position."""
        found = []
        for place, (prompt, answer) in enumerate(zip(texts.prompts, texts.answers, strict=True)):
            text, likeliest = prompt + answer[:-1], []
            for start in range(0, len(text), CHUNK):
                likeliest += self._run(place, start, text[start : start + CHUNK])
            found.append(likeliest[len(prompt) - 1 :])
        return found

    def _follow(self, texts: Texts, places: Sequence[int]) -> list[list[int]]:
        found = [[self._prefill(place, texts.prompts[place])] for place in places]
        for step in range(NEW_TOKENS - 1):
            rows = [(p, len(texts.prompts[p]) + step, texts.answers[p][step]) for p in places]
            for tokens, token in zip(found, self._step(rows), strict=True):
                tokens.append(token)
        return found

    def _prefill(self, place: int, prompt: list[int]) -> int:
        return self._run(place, 0, prompt)[-1]

    def _run(self, place: int, position: int, token_ids: list[int]) -> list[int]:
        """Compute consecutive rows of one session."""
        segment = Segment(0, len(token_ids), self._list_pages(place), position)
        x = self._runner.forward(
            self._runner.embed(token_ids), [segment], start=0, end=self._layers
        )
        return self._runner.compute_logits(x, are_decodes=False).argmax(-1).tolist()

    def _step(self, rows: list[tuple[int, int, int]]) -> list[int]:
        """Compute one row each of sessions: (session, position, token)."""
        segments = [
            Segment(row, 1, self._list_pages(place), position)
            for row, (place, position, _) in enumerate(rows)
        ]
        x = self._runner.embed([token for _, _, token in rows])
        x = self._runner.forward(x, segments, start=0, end=self._layers)
        return self._runner.compute_logits(x).argmax(-1).tolist()

    def _list_pages(self, place: int) -> range:
        return range(place * SESSION_PAGES, (place + 1) * SESSION_PAGES)


def measure(model: str, dtype: str, quant_type: str, prompts: list[list[int]]) -> dict:
    """Return how many tokens differ in each way."""
    torch.set_num_threads(1)
    bench = Bench(model, dtype, quant_type, deterministic=False)
    texts = bench.answer_alone(prompts)
    counts = {
        "again": texts.count_differing(bench.follow_alone(texts)),
        "crowd": texts.count_differing(bench.follow_in_a_crowd(texts)),
        "prompt": texts.count_differing(bench.read_as_prompt(texts)),
    }
    torch.set_num_threads(2)
    counts["threads"] = texts.count_differing(bench.follow_alone(texts))
    torch.set_num_threads(1)
    strict = Bench(model, dtype, quant_type, deterministic=True)
    alike = strict.answer_alone(prompts)
    counts["crowd, deterministic"] = alike.count_differing(strict.follow_in_a_crowd(alike))
    return {"dtype": dtype, "quant_type": quant_type, "tokens": texts.count, "differing": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(SHIPPED), help="a folder or a GGUF file")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, if it is not in the folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    file = arguments.tokenizer or Path(arguments.model) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    prompts = [tokenizer.encode(text).ids for text in TEXTS]
    with torch.inference_mode():
        found = [measure(arguments.model, *kind, prompts) for kind in KINDS]
    if arguments.json:
        print(json.dumps(found))
        return
    for result in found:
        print(f"{result['dtype']}, quantised: {result['quant_type']}; of {result['tokens']} tokens")
        for way, count in result["differing"].items():
            print(f"  {way:22} {count:4} differ ({count / result['tokens']:.2%})")


if __name__ == "__main__":
    main()
