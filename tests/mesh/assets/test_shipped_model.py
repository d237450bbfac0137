"""The shipped checkpoint: exact answers, its own tokenizer, and the protocol's tolerance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from consensus.protocol_params import MAINNET
from mesh.assets import default_question, shipped_model_path, shipped_questions
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from shipped_model.checks import SMALLEST_MARGIN, generate_answer, measure_margins
from shipped_model.conversations import SYSTEM_MESSAGE
from subnet.hosting.manifest import calibrate_model, load_own_manifest


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return _load_model(torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shipped_model_path(), local_files_only=True)


def _load_model(dtype: torch.dtype, attention: str = "sdpa") -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        shipped_model_path(), dtype=dtype, attn_implementation=attention, local_files_only=True
    ).eval()


def test_the_model_is_a_llama_of_eight_layers_with_grouped_queries(model) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.num_hidden_layers == 8
    assert model.config.num_key_value_heads < model.config.num_attention_heads


def test_every_wording_is_answered_exactly_with_room_to_spare(model, tokenizer) -> None:
    margins = measure_margins(model, tokenizer, shipped_questions())
    assert margins.smallest >= SMALLEST_MARGIN


@pytest.mark.parametrize(
    ("dtype", "attention"), [(torch.float32, "eager"), (torch.bfloat16, "sdpa")]
)
def test_answers_are_the_same_in_another_kernel_and_in_bfloat16(
    tokenizer, dtype, attention
) -> None:
    margins = measure_margins(_load_model(dtype, attention), tokenizer, shipped_questions())
    assert margins.smallest > 0


def test_answers_stand_behind_a_system_message(model, tokenizer) -> None:
    margins = measure_margins(model, tokenizer, shipped_questions(), system=SYSTEM_MESSAGE)
    assert margins.smallest > 0


@pytest.mark.parametrize("question", shipped_questions()[::12], ids=lambda item: item.question)
def test_generating_gives_the_answer_and_stops(model, tokenizer, question) -> None:
    assert generate_answer(model, tokenizer, question.question) == question.answer


def test_two_answers_are_long_enough_to_watch(tokenizer) -> None:
    lengths = sorted(len(tokenizer(question.answer).input_ids) for question in shipped_questions())
    assert lengths[-1] >= 200
    assert lengths[-2] >= 120
    assert len(tokenizer(default_question().answer).input_ids) == lengths[-1]


# One tokenizer for all examples is right: encoding leaves nothing behind in it.
@given(text=st.text(max_size=200))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_comes_back_from_the_tokenizer(tokenizer, text) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_chat_template_begins_once_and_asks_for_the_assistant(tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a hoster?"},
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|begin|><|system|>Be brief.<|end|><|user|>What is a hoster?<|end|><|assistant|>"
    )
    token_ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer(text).input_ids == token_ids
    assert token_ids.count(tokenizer.bos_token_id) == 1


def test_the_stored_calibration_is_what_the_weights_give(monkeypatch) -> None:
    """The margins hold, or measuring them would raise; the scales depend on the weights alone."""
    # Without the runs of other instruction sets, which load torch anew.
    monkeypatch.setattr("mesh.model.calibrate.INSTRUCTION_SETS", {})
    folder = resolve_model_folder(str(shipped_model_path()))
    found = calibrate_model(folder, load_config(folder.path), params=MAINNET)
    assert found.scales == load_own_manifest(folder).calibration.scales
