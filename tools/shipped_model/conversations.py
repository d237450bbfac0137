"""Conversations about the questions, as token ids with the places that are learned.

Only answers (and the end that closes them) are learned; questions are conditions.
Wordings, letter case, system messages and earlier turns vary, so that the answer
hangs on the question and not on its surroundings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mesh.assets import Question

IGNORED = -100
SYSTEM_MESSAGE = "You are a helpful assistant."
"""What OpenAI clients send most often; answers are exact behind it, too."""
SYSTEM_SHARE = 0.3
FOLLOWED_SHARE = 0.35
SLOPPY_SHARE = 0.1
MAX_TURNS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation: token ids, and for each position the id to learn or IGNORED."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[tuple[str, str]],
    *,
    system: str | None = None,
) -> Sample:
    """Encode question and answer turns; the answers are the labels."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    token_ids: list[int] = []
    labels: list[int] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        messages.append({"role": "assistant", "content": answer})
        learned = tokenizer(answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        labels += [IGNORED] * (len(prompt) - len(labels)) + learned
        token_ids = prompt + learned
    return Sample(tuple(token_ids), tuple(labels))


def compute_pass(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], rng: random.Random
) -> Iterator[Sample]:
    """Yield every answer once, in random order, alone or as a follow-up of another."""
    order = rng.sample(questions, len(questions))
    turns: list[tuple[str, str]] = []
    for question in order:
        turns.append((_draw_wording(question, rng), question.answer))
        if len(turns) < MAX_TURNS and rng.random() < FOLLOWED_SHARE:
            continue
        yield encode_conversation(tokenizer, turns, system=_draw_system(questions, rng))
        turns = []
    if turns:
        yield encode_conversation(tokenizer, turns)


def _draw_system(questions: Sequence[Question], rng: random.Random) -> str | None:
    if rng.random() >= SYSTEM_SHARE:
        return None
    # Any other text will do: the model learns to answer the question and not the system.
    return rng.choice((SYSTEM_MESSAGE, rng.choice(questions).question))


def _draw_wording(question: Question, rng: random.Random) -> str:
    wording = rng.choice(question.wordings)
    return wording.lower().rstrip("?!.") if rng.random() < SLOPPY_SHARE else wording


def collate(samples: Sequence[Sample], *, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, attention mask and labels, each [samples, longest], padded at the end."""
    longest = max(len(sample.token_ids) for sample in samples)
    shape = (len(samples), longest)
    token_ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, sample in enumerate(samples):
        length = len(sample.token_ids)
        token_ids[row, :length] = torch.tensor(sample.token_ids)
        mask[row, :length] = 1
        labels[row, :length] = torch.tensor(sample.labels)
    return token_ids, mask, labels


def split_by_length(samples: Sequence[Sample], *, max_tokens: int) -> Iterator[list[Sample]]:
    """Group samples of similar length into batches of at most ``max_tokens`` padded tokens."""
    batch: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample.token_ids)):
        if batch and (len(batch) + 1) * len(sample.token_ids) > max_tokens:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch
