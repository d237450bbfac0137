"""A GGUF file's metadata makes the tokenizer that the model was trained with."""

from __future__ import annotations

import gguf
import pytest
from tokenizers import pre_tokenizers

from mesh.client.gguf_tokenizer import CUTS, derive_merges
from mesh.client.tokenizer import MAX_TEMPLATE_CHARACTERS, ChatTokenizer
from mesh.errors import ModelError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL = ["<pad>", "<s>", "</s>", *ALPHABET, "th", "the", "<think>"]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["▁", "t", "h", "e", "th", "▁th", "the", "▁the"]
SCORES = [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -4.0, -3.0]
SENTENCEPIECE = {
    "model": "llama",
    "pre": "default",
    "tokens": PIECES,
    "merges": None,
    "scores": SCORES,
    "types": [2, 3, 3] + [6] * 256 + [1] * 8,
}


def write(
    path,
    *,
    model="gpt2",
    pre="gpt-2",
    tokens=BYTE_LEVEL,
    merges=("t h", "th e"),
    types=None,
    scores=None,
    template=None,
    **flags,
):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types or [3, 3, 3] + [1] * (len(tokens) - 4) + [4])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if merges is not None:
        writer.add_token_merges(list(merges))
    if scores is not None:
        writer.add_token_scores(scores)
    if template is not None:
        writer.add_chat_template(template)
    for name, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def load(tmp_path, **changes):
    return ChatTokenizer.load(write(tmp_path / "x.gguf", **changes))


def spell(tokenizer, text, tokens):
    return [tokens[number] for number in tokenizer.encode(text)]


def test_byte_level_text_is_merged_and_comes_back(tmp_path):
    tokenizer = load(tmp_path)
    assert spell(tokenizer, "the <think>x</s>", BYTE_LEVEL) == ["the", "Ġ", "<think>", "x", "</s>"]
    text = "grüße, 你好 👩‍👩‍👧"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(BYTE_LEVEL)
    assert tokenizer.get_token_bytes(BYTE_LEVEL.index("Ġ")) == b" "


def test_only_control_tokens_are_hidden_in_answers(tmp_path):
    tokenizer = load(tmp_path)
    assert tokenizer.decode([1, BYTE_LEVEL.index("<think>"), 2]) == "<think>"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["e"]),
        ({"add_bos_token": True}, ["<s>", "e"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "e", "</s>"]),
        ({"pre": "llama-bpe"}, ["<s>", "e"]),
        ({"pre": "llama-bpe", "add_bos_token": False}, ["e"]),
    ],
)
def test_texts_begin_and_end_as_the_file_says(tmp_path, flags, expected):
    assert spell(load(tmp_path, **flags), "e", BYTE_LEVEL) == expected


def test_the_chat_template_is_the_files(tmp_path):
    tokenizer = load(tmp_path, template=TEMPLATE, add_bos_token=True)
    token_ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(token_ids) == "user: hi\nassistant:"
    assert token_ids.count(1) == 1
    assert not load(tmp_path).has_chat_template


def test_a_template_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(ModelError, match="chat template is longer"):
        load(tmp_path, template="x" * (MAX_TEMPLATE_CHARACTERS + 1))


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "12345 don't", ["12345", "Ġdon", "'t"]),
        ("smollm", "12345 x1", ["1", "2", "3", "4", "5", "Ġx", "1"]),
        ("llama-bpe", "12345 DON'T", ["123", "45", "ĠDON", "'T"]),
        ("qwen2", "12 DON'T\n\n x", ["1", "2", "ĠDON", "'T", "ĊĊ", "Ġx"]),
        ("tekken", "12 fooBar/\n", ["1", "2", "Ġfoo", "Bar", "/Ċ"]),
    ],
)
def test_text_is_cut_as_the_file_names_it(pre, text, expected):
    assert [word for word, _ in CUTS[pre].make().pre_tokenize_str(text)] == expected


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken"])
def test_cuts_are_those_of_transformers(pre):
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    assert CUTS[pre].pattern == gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS[pre]


@pytest.mark.parametrize("pre", ["gpt-5", "default", None])
def test_an_unknown_cut_is_refused_by_name(tmp_path, pre):
    with pytest.raises(ModelError, match=f"cuts text as {pre!r}; supported are gpt-2"):
        load(tmp_path, pre=pre)


def test_sentencepiece_merges_follow_from_the_scores(tmp_path):
    tokenizer = load(tmp_path, **SENTENCEPIECE)
    assert spell(tokenizer, "the", PIECES) == ["<s>", "▁the"]
    assert spell(tokenizer, "é", PIECES) == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("the é the")) == "the é the"
    assert derive_merges(PIECES, SCORES)[:2] == [("t", "h"), ("▁", "th")]


def test_sentencepiece_merges_are_those_of_transformers():
    from transformers.tokenization_utils_base import generate_merges

    numbers = {token: number for number, token in enumerate(PIECES)}
    theirs = generate_merges(numbers, dict(zip(PIECES, SCORES, strict=True)))
    assert derive_merges(PIECES, SCORES) == [tuple(merge) for merge in theirs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer 'bert'; gpt2 and llama are supported"),
        ({"merges": ("t h e",)}, "cannot be built"),
        ({"merges": ("th is",)}, "cannot be built"),
        ({**SENTENCEPIECE, "scores": None}, "no score for each token"),
        ({**SENTENCEPIECE, "scores": [1.0]}, "no score for each token"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        load(tmp_path, **changes)


def test_a_file_without_a_vocabulary_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="has no vocabulary"):
        ChatTokenizer.load(path)
