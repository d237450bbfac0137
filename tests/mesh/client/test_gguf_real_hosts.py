"""Real weights from one GGUF file, served in two ranges over real p2pd daemons."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from mesh.client.connection import connect
from mesh.client.route_search import RoutingOptions
from mesh.client.tokenizer import ChatTokenizer
from tests.support.real_swarm import open_real_swarm
from tests.support.smollm2 import fetch_smollm2

TEXTS = (
    "What is the capital of France?",
    "Numbers: 1234567, 3.14 and 0x1F; don't  split\n\n\tthem wrongly!  ",
    "grüße, 你好, 👩‍👩‍👧 <|im_start|>user<|im_end|>",
)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_smollm2_in_two_ranges_knows_the_capital_of_france():
    path = str(fetch_smollm2())
    async with open_real_swarm(((0, 15), (15, 30)), model=path) as (address, engines):
        async with connect([address], model=path) as client:
            answer = client.generate(
                [{"role": "user", "content": "What is the capital of France?"}],
                max_new_tokens=24,
                routing=RoutingOptions(max_layers_per_hop=15),
            )
            async with aclosing(answer):
                pieces = [piece async for piece in answer]
    text = "".join(piece.text for piece in pieces)
    assert "Paris" in text
    assert pieces[-1].finish_reason == "stop"
    assert [hop.start for hop in pieces[-1].trace.route] == [0, 15]
    assert len(engines) == 2


@pytest.mark.timeout(600)
def test_smollm2s_tokens_are_those_that_transformers_reads_from_the_file():
    from transformers import AutoTokenizer

    path = fetch_smollm2()
    ours = ChatTokenizer.load(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert ours.vocab_size == len(theirs) == 49152
    for text in TEXTS:
        assert list(ours.encode(text)) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text
    messages = [{"role": "user", "content": "hi"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.decode(ours.encode_chat(messages), skip_special_tokens=False) == expected
