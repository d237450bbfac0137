"""Text that users wrote, within a rendered chat template: special tokens in it stay text.

A user who writes ``<|im_end|>`` would otherwise end the turn and could open one of another role.
Transformers calls the same ``split_special_tokens``. Theory of operation:

1. Each special token in a message is broken by a mark after its first character. The mark is a
   character that no message has.
2. The template is rendered. Whole special tokens in the result are the template's own.
3. The text between them is encoded without its marks by a tokenizer that knows no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mesh.errors import InvalidRequest

FINAL_END = "\ufdef"
"""Stands at the end of a message that is to be continued."""
MARKS = tuple(map(chr, range(0xFDD0, 0xFDEF)))
"""Characters that Unicode leaves to programs for their own use: texts hardly ever have them."""
LONG_TEXT = 4096
"""From so many characters on, a text is encoded without holding up the other threads."""


def encode_text(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Return a text's token ids. ``encode`` of the library keeps the interpreter's lock for seconds
    where a text is long, and its ``encode_batch`` does not.
    """
    if len(text) < LONG_TEXT:
        encoding = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    else:
        (encoding,) = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
    found: list[int] = encoding.ids
    return found


class UserText:
    """Finds the special tokens of one tokenizer in text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        # The longest first: one special token may begin another. One of a single character cannot
        # be broken; no model has such.
        self._special = sorted(
            (token.content for token in added if token.special and len(token.content) > 1),
            key=len,
            reverse=True,
        )
        either = "|".join(map(re.escape, self._special))
        self._whole = re.compile(f"({either})")
        self._starts = re.compile(f"(?={either})")
        self._plain: Tokenizer | None = None

    def choose_mark(self, *values: Any) -> str | None:
        """Return the mark for these values, None if no special token is in them."""
        texts = list(_list_texts(values))
        if not any(token in text for token in self._special for text in texts):
            return None
        for mark in MARKS:
            if not any(mark in text for text in texts):
                return mark
        raise InvalidRequest("messages", "too many of Unicode's noncharacters are in them")

    def break_special(self, value: Any, mark: str) -> Any:
        """Return a copy of JSON with a mark in each special token of its texts."""
        if isinstance(value, str):
            return self._break_text(value, mark)
        if isinstance(value, Mapping):
            return {
                self.break_special(k, mark): self.break_special(v, mark) for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.break_special(item, mark) for item in value]
        return value

    def _break_text(self, text: str, mark: str) -> str:
        cuts = [match.start() + 1 for match in self._starts.finditer(text)]
        edges = zip([0, *cuts], [*cuts, len(text)], strict=True)
        return mark.join(text[start:end] for start, end in edges)

    def encode(self, text: str, mark: str) -> list[int]:
        """Return the token ids of rendered text, without its marks."""
        found: list[int] = []
        known = ""
        for piece in self._whole.split(text):
            if mark not in piece:
                known += piece
                continue
            found += encode_text(self._tokenizer, known, add_special_tokens=False)
            found += self.encode_plain(piece.replace(mark, ""))
            known = ""
        return found + encode_text(self._tokenizer, known, add_special_tokens=False)

    def encode_plain(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the token ids of text in which special tokens are text."""
        if self._plain is None:
            self._plain = Tokenizer.from_str(self._tokenizer.to_str())
            self._plain.encode_special_tokens = True
        return encode_text(self._plain, text, add_special_tokens=add_special_tokens)


def _list_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _list_texts(key)
            yield from _list_texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _list_texts(item)
