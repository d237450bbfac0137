"""What a grammar's mask costs a token at a large vocabulary, in one thread and without a model.

python -m benchmarks.grammar_masks [--json] [--vocabulary 128256] [--tokens 400] [--rounds 5]

The vocabulary is made here from a seed: all bytes, then pieces of words, numbers, blanks and JSON's
punctuation, as many as a tokenizer of 128k tokens has. Each case follows answers through a grammar,
the next token drawn from those that the mask allows, and times three parts for every token: going
on by the token before (``consume``), the mask (``mask``), and what the range that samples does with
it to a row of logits (``apply``, torch on the CPU). Where a route has several ranges, ``consume``
and ``mask`` run while the others compute (mesh/inference/pipeline.py); ``apply`` always waits.

Times are those of the thread on a processor, so that other programs do not count. The goal is
0.5 ms a token for ``consume`` and ``mask`` together. Compiling is told apart: it happens once a
grammar, before the first token, and in a thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch

from mesh.inference.grammar import Grammar, GrammarKind
from mesh.inference.grammar_compiler import GrammarCompiler, GrammarMatcher, Vocabulary
from mesh.inference.shaping import LogitChange

SEED = 20
GOAL_MS = 0.5
END = 0
MAX_PIECE = 12
PARTS = ("consume", "mask", "apply")
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
PUNCTUATION = ['"', '":', '": ', '", "', '{"', '"}', "},", "[", "]", "],", "{", "}", ", ", ": "]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "days": {"type": "integer", "minimum": 0, "maximum": 14},
        "units": {"enum": ["metric", "imperial"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "at": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
    },
    "required": ["city", "days", "units", "at"],
    "additionalProperties": False,
}
CASES = {
    "schema": Grammar(GrammarKind.JSON_SCHEMA, json.dumps(WEATHER)),
    "any object": Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"type": "object"})),
    "regex": Grammar(GrammarKind.REGEX, r"[A-Z][a-z ]{3,60}\. [0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "free text": Grammar(GrammarKind.REGEX, r"(.|\n){0,2000}"),
    "token set": Grammar(
        GrammarKind.LARK, f"start: <[^{','.join(map(str, range(1000, 9000, 2)))}]> start\n"
    ),
    "tool call": Grammar(
        GrammarKind.LARK,
        'start: "<tool_call>\\n{\\"name\\": \\"get_weather\\", \\"arguments\\": " args "}"\n'
        f"args: %json {json.dumps(WEATHER)}",
    ),
}


def make_vocabulary(size: int) -> Vocabulary:
    """Return ``size`` different tokens; the first is the end of a text."""
    draw = Random(SEED)
    tokens = dict.fromkeys([b"<|end|>", *(bytes([byte]) for byte in range(256))])
    tokens.update(dict.fromkeys(text.encode() for text in PUNCTUATION))
    tokens.update(dict.fromkeys(f"{number}".encode() for number in range(1000)))
    while len(tokens) < size:
        word = "".join(draw.choices(LETTERS, k=draw.randint(2, MAX_PIECE)))
        kind = draw.random()
        if kind < 0.4:
            word = " " + word
        elif kind < 0.6:
            word = word.capitalize()
        elif kind < 0.7:
            word = draw.choice(PUNCTUATION) + word
        tokens[word.encode()] = None
    return Vocabulary([*tokens][:size], [END], [END])


@dataclass
class Rounds:
    """Milliseconds of every token of each round, by part."""

    parts: dict[str, list[list[float]]] = field(
        default_factory=lambda: {part: [] for part in PARTS}
    )

    def start(self) -> None:
        """Begin another round."""
        for rounds in self.parts.values():
            rounds.append([])

    def measure(self, part: str, action: Callable[[], object]) -> object:
        """Do ``action`` and note how long it took."""
        started = time.thread_time()
        result = action()
        self.parts[part][-1].append((time.thread_time() - started) * 1000)
        return result

    def describe(self) -> dict[str, dict[str, float]]:
        """Return each part, and the two of the goal together."""
        both = [
            [consumed + masked for consumed, masked in zip(*pair, strict=True)]
            for pair in zip(self.parts["consume"], self.parts["mask"], strict=True)
        ]
        return {name: _describe(told) for name, told in {**self.parts, "both": both}.items()}


def _describe(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    medians = [statistics.median(times) for times in rounds]
    every = sorted(value for times in rounds for value in times)
    return {
        "median_ms": round(statistics.median(medians), 4),
        "lowest_median_ms": round(min(medians), 4),
        "highest_median_ms": round(max(medians), 4),
        "p99_ms": round(every[int(0.99 * (len(every) - 1))], 4),
        "longest_ms": round(every[-1], 4),
    }


def follow(
    start: Callable[[], GrammarMatcher], rounds: Rounds, *, vocab_size: int, tokens: int, seed: int
) -> None:
    """Go through answers of a grammar until so many tokens have been chosen."""
    draw = np.random.default_rng(seed)
    row = torch.zeros(vocab_size, dtype=torch.float64)
    matcher = start()
    # The first token of an answer has none before it.
    mask = matcher.compute_mask()
    rounds.start()
    for _ in range(tokens):
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size]
        allowed = np.flatnonzero(bits)
        token_id = int(draw.choice(allowed))
        if token_id == END:
            matcher = start()
            token_id = int(draw.choice(np.flatnonzero(_read_bits(matcher, vocab_size))))
        rounds.measure("consume", lambda: matcher.consume(token_id))  # noqa: B023
        found = rounds.measure("mask", matcher.compute_mask)
        assert isinstance(found, np.ndarray)
        mask = found
        change = LogitChange(mask=mask)
        rounds.measure("apply", lambda: change.apply(row))  # noqa: B023


def _read_bits(matcher: GrammarMatcher, vocab_size: int) -> np.ndarray:
    return np.unpackbits(matcher.compute_mask().view(np.uint8), bitorder="little")[:vocab_size]


def measure(*, vocab_size: int, tokens: int, rounds: int) -> dict[str, object]:
    """Measure every case."""
    vocabulary = make_vocabulary(vocab_size)
    compiler = GrammarCompiler(lambda: vocabulary, vocab_size=vocab_size)
    started = time.thread_time()
    # The library reads the vocabulary once, with the first grammar.
    compiler.start_now(Grammar(GrammarKind.REGEX, "a"))
    vocabulary_ms = (time.thread_time() - started) * 1000
    cases = {}
    for name, grammar in CASES.items():
        started = time.thread_time()
        compiler.start_now(grammar)
        compile_ms = (time.thread_time() - started) * 1000
        noted = Rounds()
        for seed in range(rounds):
            follow(
                lambda: compiler.start_now(grammar),  # noqa: B023
                noted,
                vocab_size=vocab_size,
                tokens=tokens,
                seed=seed,
            )
        cases[name] = {"compile_ms": round(compile_ms, 2), **noted.describe()}
    return {
        "vocabulary": vocab_size,
        "tokens": tokens,
        "rounds": rounds,
        "goal_ms": GOAL_MS,
        "vocabulary_ms": round(vocabulary_ms, 1),
        "cases": cases,
    }


def write_table(found: dict[str, object]) -> Iterable[str]:
    """Yield the lines of a table."""
    cases = found["cases"]
    assert isinstance(cases, dict)
    yield f"{found['vocabulary']} tokens; milliseconds a token: median of {found['rounds']} rounds"
    yield "(lowest - highest), 99th percentile"
    for name, case in cases.items():
        yield f"{name}: compiled in {case['compile_ms']} ms"
        for part in (*PARTS, "both"):
            told = case[part]
            spread = f"{told['lowest_median_ms']} - {told['highest_median_ms']}"
            yield f"  {part:8} {told['median_ms']:8} ({spread})  p99 {told['p99_ms']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--tokens", type=int, default=400, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(vocab_size=asked.vocabulary, tokens=asked.tokens, rounds=asked.rounds)
    print(json.dumps(found) if asked.json else "\n".join(write_table(found)))


if __name__ == "__main__":
    main()
