"""A token's bytes, also where a tokenizer's file spells it as no trainer would."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from mesh.client.token_bytes import TokenBytes


def make_tokenizer(decoder: decoders.Decoder, *names: str) -> Tokenizer:
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoder
    return tokenizer


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ġis", b" is"), ("Ã¼", "ü".encode()), ("a b", b"a b"), ("語", "語".encode())],
)
def test_a_byte_level_token_with_other_characters_stands_for_itself(name, expected):
    tokenizer = make_tokenizer(decoders.ByteLevel(), name)
    assert TokenBytes(tokenizer).get(0) == expected
    assert tokenizer.decode([0]).encode() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("▁is", b" is"), ("<0xC3>", b"\xc3"), ("<0xZZ>", b"<0xZZ>"), ("<0x +>", b"<0x +>")],
)
def test_only_two_hexadecimal_digits_make_a_byte_token(name, expected):
    tokenizer = make_tokenizer(decoders.ByteFallback(), name)
    assert TokenBytes(tokenizer).get(0) == expected
