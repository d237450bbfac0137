"""Static shapes choose the tokens that transformers chooses."""

from __future__ import annotations

import pytest
import torch

from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.static_decode import StaticDecoder
from mesh.model.weights import load_shard

PROMPT = list(range(3, 20))


def make_decoder(folder, *, device="cpu", capacity=64):
    weights = load_shard(
        resolve_model_folder(str(folder)), load_config(folder), start=0, end=6, device=device
    )
    return StaticDecoder(weights, capacity=capacity)


def expect(load_reference, folder, count):
    output = load_reference(folder).generate(
        torch.tensor([PROMPT]), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return output[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_static_tokens_equal_transformers(make_checkpoint, load_reference, architecture):
    folder = make_checkpoint(architecture)
    with torch.inference_mode():
        decoder = make_decoder(folder)
        found = [decoder.generate(PROMPT, 30) for _ in range(2)]
        assert found == [expect(load_reference, folder, 30)] * 2


def test_more_than_the_capacity_is_refused(make_checkpoint):
    with torch.inference_mode(), pytest.raises(ValueError, match="exceed"):
        make_decoder(make_checkpoint(), capacity=20).generate(PROMPT, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_graph_chooses_the_same_tokens(make_checkpoint, load_reference):
    folder = make_checkpoint()
    with torch.inference_mode():
        decoder = make_decoder(folder, device="cuda")
        decoder.capture()
        assert decoder.generate(PROMPT, 30) == expect(load_reference, folder, 30)
