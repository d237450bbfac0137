"""The forward pass equals transformers', whatever the split and whatever the batch."""

from __future__ import annotations

import pytest
import torch

from mesh.model.attention import Segment
from mesh.model.challenge import run_challenge_head, run_challenge_layer
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner, rms_norm
from mesh.model.weights import load_shard
from tests.support.families import EXPERTS, FAMILIES, LONGROPE, PHI, YARN

VARIANTS = [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    ("LlamaForCausalLM", {"num_key_value_heads": 6, "attention_bias": True, "mlp_bias": True}),
    (
        "LlamaForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    ("MistralForCausalLM", {}),
    ("Qwen2ForCausalLM", {}),
    ("Qwen3ForCausalLM", {}),
    ("Qwen3ForCausalLM", {"rope_parameters": YARN}),
    ("Qwen3MoeForCausalLM", EXPERTS),
    ("Qwen3MoeForCausalLM", {**EXPERTS, "norm_topk_prob": False, "attention_bias": True}),
    ("Phi3ForCausalLM", PHI),
    (
        "Phi3ForCausalLM",
        {**PHI, "rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
    ),
]
SCATTERED = (7, 2, 20)
TABLES = [range(4 * i, 4 * i + 4) for i in range(8)]
SPLITS = [((0, 6),), ((0, 2), (2, 6)), ((0, 1), (1, 4), (4, 6))]


def make_runners(folder, split, *, dtype="float32", cache_tokens=512, deterministic=False):
    located = resolve_model_folder(str(folder))
    config = load_config(folder)
    return [
        ShardRunner(
            load_shard(located, config, start=start, end=end, dtype=dtype),
            cache_tokens=cache_tokens,
            deterministic=deterministic,
        )
        for start, end in split
    ]


def run_all(runners, token_ids, segments):
    x = runners[0].embed(token_ids)
    for runner in runners:
        x = runner.forward(x, segments, start=runner.weights.start, end=runner.weights.end)
    return x


def generate(runners, prompt, count, *, pages=range(8), chunk=16):
    """Greedy tokens, with the prompt prefilled in chunks."""
    position = 0
    while position < len(prompt):
        piece = prompt[position : position + chunk]
        x = run_all(runners, piece, [Segment(0, len(piece), pages, position)])
        position += len(piece)
    tokens = [int(runners[-1].compute_logits(x[-1:]).argmax())]
    while len(tokens) < count:
        x = run_all(runners, tokens[-1:], [Segment(0, 1, pages, position)])
        tokens.append(int(runners[-1].compute_logits(x).argmax()))
        position += 1
    return tokens


@pytest.mark.parametrize("split", SPLITS, ids=["one", "two", "three"])
@pytest.mark.parametrize(("architecture", "changes"), VARIANTS)
def test_logits_equal_transformers_for_one_two_and_three_ranges(
    make_checkpoint, load_reference, architecture, changes, split
):
    folder = make_checkpoint(architecture, **changes)
    torch.manual_seed(3)
    prompt = torch.randint(0, 131, (40,)).tolist()
    with torch.inference_mode():
        expected = load_reference(folder)(torch.tensor([prompt])).logits[0]
        runners = make_runners(folder, split)
        rows = [run_all(runners, prompt[:23], [Segment(0, 23, SCATTERED, 0)])]
        rows += [
            run_all(runners, [t], [Segment(0, 1, SCATTERED, 23 + i)])
            for i, t in enumerate(prompt[23:])
        ]
        logits = runners[-1].compute_logits(torch.cat(rows))
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", FAMILIES)
def test_greedy_tokens_equal_transformers(make_checkpoint, load_reference, architecture):
    folder = make_checkpoint(architecture, **FAMILIES[architecture])
    prompt = list(range(3, 30))
    with torch.inference_mode():
        expected = load_reference(folder).generate(
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=None
        )
        for split in SPLITS:
            tokens = generate(make_runners(folder, split), prompt, 40)
            assert tokens == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_batched_rows_equal_the_same_rows_alone(make_checkpoint, architecture, dtype):
    """Eight sessions of different lengths decode in one step: the bits do not change."""
    folder = make_checkpoint(architecture, **FAMILIES[architecture])
    alone, crowd = (
        make_runners(folder, SPLITS[0], dtype=dtype, deterministic=True)[0] for _ in range(2)
    )
    prompts = [list(range(3, 10 + 3 * i)) for i in range(8)]
    with torch.inference_mode():
        for i, prompt in enumerate(prompts):
            for runner in (alone, crowd):
                run_all([runner], prompt, [Segment(0, len(prompt), TABLES[i], 0)])
        for step in range(6):
            tokens = [(step * 17 + i) % 131 for i in range(8)]
            segments = [Segment(i, 1, TABLES[i], len(p) + step) for i, p in enumerate(prompts)]
            together = crowd.compute_logits(run_all([crowd], tokens, segments))
            for i, segment in enumerate(segments):
                single = Segment(0, 1, segment.pages, segment.position)
                row = alone.compute_logits(run_all([alone], tokens[i : i + 1], [single]))
                assert torch.equal(row[0], together[i])


def test_a_challenge_is_answered_with_what_the_transformers_layer_adds(
    make_checkpoint, load_reference
):
    folder = make_checkpoint()
    (runner,) = make_runners(folder, SPLITS[0])
    reference = load_reference(folder)
    hidden = torch.randint(-127, 128, (16, 48)).float() / 64
    tokens = torch.arange(16) * 5
    with torch.inference_mode():
        embedded = hidden + reference.model.embed_tokens(tokens)
        position_embeddings = reference.model.rotary_emb(hidden, torch.arange(16)[None])
        mask = torch.full((16, 16), float("-inf")).triu(1)[None, None]
        for layer, x in ((0, embedded), (4, hidden)):
            output = reference.model.layers[layer](
                x[None], attention_mask=mask, position_embeddings=position_embeddings
            )[0, -1]
            expected = output - x[-1]
            ids = tokens if layer == 0 else None
            found = run_challenge_layer(runner.weights, layer, hidden, token_ids=ids)
            # By subtraction: the reference keeps the rounding of the sum.
            assert (found - expected).norm() < 1e-5 * output.norm()
            assert (found - expected).norm() < 0.01 * expected.norm()
        rows = torch.tensor([130, 3, 77])
        expected = reference.lm_head(reference.model.norm(hidden[-1]))[rows]
        assert torch.allclose(run_challenge_head(runner.weights, hidden, rows), expected, atol=1e-5)


def test_challenge_is_float32_whatever_is_served(make_checkpoint):
    """A bfloat16 checkpoint served in bfloat16 or float32 answers alike to float32 accuracy."""
    folder = make_checkpoint(dtype="bfloat16")
    hidden = torch.randint(-127, 128, (16, 48)).float() / 64
    with torch.inference_mode():
        answers = [
            run_challenge_layer(make_runners(folder, SPLITS[0], dtype=d)[0].weights, 2, hidden)
            for d in ("float32", "bfloat16")
        ]
    assert answers[0].dtype == torch.float32
    assert (answers[0] - answers[1]).norm() < 1e-5 * answers[0].norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_challenge_uses_the_plain_kernel_only(make_checkpoint, monkeypatch, dtype):
    """Fused attention may multiply in a narrower type than its input's."""

    def refuse(*arguments, **options):
        raise AssertionError("a challenge must not use a fused kernel")

    (runner,) = make_runners(make_checkpoint(), SPLITS[0], dtype=dtype)
    hidden = torch.randint(-127, 128, (16, 48)).float() / 64
    expected = [run_challenge_layer(runner.weights, layer, hidden) for layer in range(1, 6)]
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    for layer, answer in enumerate(expected, start=1):
        found = run_challenge_layer(runner.weights, layer, hidden)
        assert found.dtype == torch.float32 and torch.equal(found, answer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rows_norm_has_the_same_bits_alone_and_in_a_crowd(dtype):
    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(64, 576, generator=generator) * 3).to(dtype)
    weight = torch.randn(576, generator=generator).to(dtype)
    alone = [rms_norm(row, weight, 1e-5) for row in x.split(1)]
    assert torch.equal(torch.cat(alone), rms_norm(x, weight, 1e-5))
    assert alone[0].dtype == dtype


def test_the_norm_of_a_gpu_is_the_same_norm():
    x = 3 * torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    weight = torch.rand(48, generator=torch.Generator().manual_seed(2))
    expected = rms_norm(x, weight, 1e-5)
    found = torch.nn.functional.rms_norm(x, (48,), weight, 1e-5)
    assert (found - expected).norm() < 1e-6 * expected.norm()
