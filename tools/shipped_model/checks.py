"""What must hold before a checkpoint is published: exact answers, and calibration.

Answers: greedy decoding gives every answer exactly, with room between the best and the
second logit, so that another machine, dtype or attention kernel gives the same tokens.
Calibration: see ``measure_calibration``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from consensus.protocol_params import ConsensusParams
from mesh.assets import Question
from shipped_model.conversations import collate, encode_conversation, split_by_length

CHECK_TOKENS = 8192
MAX_ANSWER_TOKENS = 512
INT8_LARGEST = 127

SMALLEST_MARGIN = 1.0
"""Logits by which every answer token must lead in float32."""
HONEST_MARGIN = 20
"""The tolerance is at least this many times the spread of honest runs."""
INT8_MARGIN = 2
"""int8 weights stand at least this many tolerances away."""


@dataclass(frozen=True, slots=True)
class AnswerMargins:
    """Over all answer tokens: how far the right logit stands above the best wrong one."""

    tokens: int
    smallest: float
    median: float


@dataclass(frozen=True, slots=True)
class LayerCalibration:
    """One challenged layer; the output head is layer ``num_layers``.

    ``spread`` is the largest relative L2 distance of honest float32 runs from float64,
    ``int8_distance`` that of int8 weights from float32, ``largest`` the largest magnitude.
    """

    layer: int
    spread: float
    int8_distance: float
    largest: float


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


@torch.inference_mode()
def measure_calibration(
    model: LlamaForCausalLM, *, positions: int, seed: int
) -> tuple[LayerCalibration, ...]:
    """Run each layer and the head alone on int8 noise times 2**-6 and compare the last position.

    float32 with one and with two threads, and eager and fused attention, are the honest runs.
    """
    generator = torch.Generator().manual_seed(seed)
    threads = torch.get_num_threads()
    wide, small = copy.deepcopy(model).double(), quantise_int8(model)
    rows = []
    for layer in range(model.config.num_hidden_layers + 1):
        hidden = draw_challenge(model, layer=layer, positions=positions, generator=generator)
        truth = run_layer(wide, layer, hidden.double())
        honest = list(_honest_runs(model, layer, hidden))
        rows.append(
            LayerCalibration(
                layer=layer,
                spread=max(compute_distance(run.double(), truth) for run in honest),
                int8_distance=compute_distance(run_layer(small, layer, hidden), honest[0]),
                largest=truth.abs().max().item(),
            )
        )
    torch.set_num_threads(threads)
    return tuple(rows)


def draw_challenge(
    model: LlamaForCausalLM, *, layer: int, positions: int, generator: torch.Generator
) -> Tensor:
    """Return hidden states [1, positions, hidden]; layer 0 gets random embedding rows added."""
    shape = (1, positions, model.config.hidden_size)
    hidden = torch.randint(-INT8_LARGEST, INT8_LARGEST + 1, shape, generator=generator) * 2.0**-6
    if layer > 0:
        return hidden
    token_ids = torch.randint(model.config.vocab_size, (1, positions), generator=generator)
    return hidden + model.model.embed_tokens(token_ids)


def run_layer(model: LlamaForCausalLM, layer: int, hidden: Tensor) -> Tensor:
    """Return the last position's output of one layer, or of norm and head after the last one."""
    if layer == model.config.num_hidden_layers:
        return model.lm_head(model.model.norm(hidden))[0, -1]
    positions = torch.arange(hidden.shape[1])[None]
    rotary = model.model.rotary_emb(hidden, position_ids=positions)
    mask = torch.full((hidden.shape[1],) * 2, float("-inf"), dtype=hidden.dtype).triu(1)
    layer = model.model.layers[layer]
    return layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)[0, -1]


def _honest_runs(model: LlamaForCausalLM, layer: int, hidden: Tensor) -> Iterator[Tensor]:
    kernel = model.config._attn_implementation
    for attention in ("sdpa", "eager"):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model.set_attn_implementation(attention)
            yield run_layer(model, layer, hidden)
    model.set_attn_implementation(kernel)


def quantise_int8(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a copy whose linear weights carry the error of int8 with a scale per output row."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.Linear):
            largest = module.weight.abs().amax(dim=1, keepdim=True)
            # A row of zeros has no scale; any will do, as long as it does not divide by zero.
            scale = torch.where(largest > 0, largest, 1.0) / INT8_LARGEST
            module.weight.data = (module.weight / scale).round() * scale
    return copied


def compute_distance(vector: Tensor, reference: Tensor) -> float:
    """Return the relative L2 distance of ``vector`` from ``reference``."""
    return ((vector - reference).norm() / reference.norm()).item()


def find_faults(
    margins: AnswerMargins, calibration: Sequence[LayerCalibration], params: ConsensusParams
) -> tuple[str, ...]:
    """Return one sentence for each thing that forbids publishing; empty if all is well."""
    tolerance = 2.0**-params.tolerance_bits
    largest_allowed = 2.0 ** (params.value_bound_bits - 1)
    faults = []
    # Each condition says what must hold, so that a NaN is a fault.
    if not margins.smallest >= SMALLEST_MARGIN:
        faults.append(f"an answer token leads by {margins.smallest:.2f} < {SMALLEST_MARGIN}")
    for row in calibration:
        if not row.spread <= tolerance / HONEST_MARGIN:
            faults.append(f"block {row.layer}: honest runs differ by {row.spread:.1e}")
        if not row.int8_distance >= INT8_MARGIN * tolerance:
            faults.append(f"block {row.layer}: int8 is only {row.int8_distance:.1e} away")
        if not row.largest < largest_allowed:
            faults.append(f"block {row.layer}: a value of {row.largest:.0f} passes half the bound")
    return tuple(faults)
