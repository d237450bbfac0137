"""The model and how it learns its answers by heart."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from mesh.assets import Question
from shipped_model.conversations import collate, compute_pass, split_by_length
from shipped_model.tokens import CONTEXT_POSITIONS

logger = logging.getLogger(__name__)

SEED = 20261128
PASSES = 160
BATCH_TOKENS = 1024
LEARNING_RATE = 3e-3
WARM_UP_SHARE = 0.05
FINAL_SHARE = 0.02
MAX_GRADIENT_NORM = 1.0


def build_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return the untrained model: 8 layers, so that overlapping ranges make sense."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_POSITIONS,
        # Large enough that one layer moves the residual stream well beyond the tolerance.
        initializer_range=0.06,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_model(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], *, seed: int, passes: int
) -> LlamaForCausalLM:
    """Train until every answer has been seen ``passes`` times; weights end in bfloat16 values."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = build_model(tokenizer).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.97), weight_decay=0.0
    )
    for number in range(passes):
        loss = _train_pass(model, optimizer, tokenizer, questions, rng, done=number / passes)
        if number % 10 == 9:
            logger.info("pass %d of %d: loss %.4f", number + 1, passes, loss)
    # The published weights are bfloat16: what is checked is what is published.
    return model.eval().to(torch.bfloat16).float()


def _train_pass(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    rng: random.Random,
    *,
    done: float,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * compute_rate_share(done)
    batches = list(
        split_by_length(list(compute_pass(tokenizer, questions, rng)), max_tokens=BATCH_TOKENS)
    )
    rng.shuffle(batches)
    total = 0.0
    for batch in batches:
        token_ids, mask, labels = collate(batch, pad_id=tokenizer.pad_token_id)
        loss = model(input_ids=token_ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        total += loss.item()
    return total / len(batches)


def compute_rate_share(done: float) -> float:
    """Return the share of the learning rate: linear warm-up, then a half cosine."""
    if done < WARM_UP_SHARE:
        return 0.2 + 0.8 * done / WARM_UP_SHARE
    progress = (done - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))
