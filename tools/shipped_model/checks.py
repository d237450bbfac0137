"""Answers are exact: greedy decoding gives every one, with room between the best and second logit.

So another machine, dtype or attention kernel gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from mesh.assets import Question
from shipped_model.conversations import collate, encode_conversation, split_by_length

CHECK_TOKENS = 8192
MAX_ANSWER_TOKENS = 512

SMALLEST_MARGIN = 1.0
"""Logits by which every answer token must lead in float32."""


@dataclass(frozen=True, slots=True)
class AnswerMargins:
    """Over all answer tokens: how far the right logit stands above the best wrong one."""

    tokens: int
    smallest: float
    median: float


@torch.inference_mode()
def measure_margins(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    system: str | None = None,
) -> AnswerMargins:
    """Return the margins over every wording; ``smallest`` > 0 means that all are exact."""
    samples = [
        encode_conversation(tokenizer, [(wording, question.answer)], system=system)
        for question in questions
        for wording in question.wordings
    ]
    margins = []
    for batch in split_by_length(samples, max_tokens=CHECK_TOKENS):
        token_ids, mask, labels = collate(batch, pad_id=tokenizer.pad_token_id)
        logits = model(input_ids=token_ids, attention_mask=mask).logits[:, :-1].float()
        learned = labels[:, 1:] >= 0
        margins.append(compute_margins(logits[learned], labels[:, 1:][learned]))
    every = torch.cat(margins)
    return AnswerMargins(len(every), every.min().item(), every.median().item())


def compute_margins(logits: Tensor, right: Tensor) -> Tensor:
    """Return right logit minus best wrong one, [tokens], from logits [tokens, vocabulary]."""
    column = right[:, None]
    best_wrong = logits.scatter(1, column, float("-inf")).max(dim=1).values
    return logits.gather(1, column)[:, 0] - best_wrong


@torch.inference_mode()
def generate_answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str
) -> str:
    """Return the greedy answer to ``question``, decoded with a KV cache, without the end token."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
    new_ids = output[0, prompt.input_ids.shape[1] :]
    return tokenizer.decode(new_ids, skip_special_tokens=True)
