"""The bytes that single tokens stand for.

A tokenizer gives text for sequences only; log probabilities are reported for single tokens,
which may be part of a character.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

_WORD_START = "\u2581"
"""How sentencepiece vocabularies write a leading space."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TokenBytes:
    """Looks up a token's bytes; byte-level and sentencepiece vocabularies."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            number: token.content.encode()
            for number, token in tokenizer.get_added_tokens_decoder().items()
        }
        self._is_byte_level = _has_byte_level(tokenizer)

    def find(self, token_id: int) -> bytes:
        """Return the token's bytes; none for a number that names no token."""
        try:
            return self.get(token_id)
        except IndexError:
            return b""

    def get(self, token_id: int) -> bytes:
        """Return the token's bytes, a special token's name. Raises IndexError if unknown."""
        if token_id in self._added:
            return self._added[token_id]
        name = self._tokenizer.id_to_token(token_id)
        if name is None:
            raise IndexError(f"token id {token_id} is not in the vocabulary")
        if self._is_byte_level:
            # A token with any other character stands for itself, as in tokenizers' own decoder.
            is_spelled = all(character in _BYTE_OF for character in name)
            return bytes(map(_BYTE_OF.__getitem__, name)) if is_spelled else name.encode()
        if _BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(name[3:5])
        return str(name).replace(_WORD_START, " ").encode()


def _has_byte_level(tokenizer: Tokenizer) -> bool:
    if tokenizer.decoder is None:
        return False
    decoder: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    parts = [decoder, *decoder.get("decoders", ())]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _make_byte_table() -> dict[str, int]:
    """Byte-level vocabularies write each byte as a visible character; this is the way back.

    Visible Latin-1 bytes stand for themselves, the others follow from U+0100 on in their order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in visible)
    return table | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _make_byte_table()
