"""Compiles grammars and follows them token by token, with the library llguidance.

A matcher's state is a function of the grammar and of the tokens so far, so a hoster that takes over
compiles the grammar and consumes the answer so far. Grammars come from strangers: their size, the
automaton behind them and the work of a step are limited, and so is how many are compiled at once.

llguidance is optional (the extra ``grammar``): a hoster without it takes no grammars.
It was chosen because a mask needs no automaton of the whole grammar first (a schema starts within a
millisecond), because it names what it does not implement instead of ignoring it, and because it has
limits.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mesh.errors import MeshError
from mesh.inference.grammar import WHITESPACE, Grammar, GrammarKind
from mesh.inference.grammar_limits import check_repeats

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_KEPT = 64
"""Compiled grammars that are kept, the last used ones."""
MAX_COMPILING = 2
MAX_ERROR = 300
ALLOWS_NOTHING = "it allows no text"
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
_EXCERPT = re.compile(r"\n +\d+ \| ")
_NO_TEXT = "NoExtensionBias"
"""What llguidance calls that."""
MAX_FORCED_BYTES = 1024
"""How much of a text that a grammar forces is read at once; a token is shorter."""

_JSON_TEXT = r'[^"\\\x00-\x1F\x7F]'
SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(f"[a-z ]{{1,{length}}}" for length in (2, 4, 6, 8, 10, 12, 30)),
    *(f"{_JSON_TEXT}{{1,{length}}}" for length in (4, 8, 12, 30)),
    f"{_JSON_TEXT}+",
    r"(.|\n){1,4}",
    r"(.|\n){1,16}",
)
"""Parts of the vocabulary, each without those before it. Where all texts of a part may come, its
tokens are allowed at once, and only the others are tried. Lengths matter where the end of a text of
limited length is near: the library's own parts are then tried whole.
"""

Mask = NDArray[np.int32]
"""One bit for each token of the vocabulary, set if it may come: [ceil(vocabulary / 32)]."""


class BadGrammar(Exception):
    """The grammar cannot be compiled, or what it allows cannot be computed within the limits."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens as bytes, special ones by name, and which of them end a text.

    ``encode`` gives the tokens that the model would write for a text, where it has a way.
    """

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    end_token_ids: Sequence[int]
    encode: Callable[[str], Sequence[int]] | None = None


def is_available() -> bool:
    """Whether llguidance is installed."""
    return find_spec("llguidance") is not None


class GrammarMatcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._words = (vocab_size + 31) // 32

    def fork(self) -> GrammarMatcher:
        """Return another matcher at the same place."""
        return GrammarMatcher(self._matcher.deep_copy(), self._vocab_size)

    def consume(self, token_id: int) -> None:
        """Go on by one token. Raises BadGrammar for one that was not allowed."""
        if not self._matcher.consume_token(token_id):
            raise BadGrammar(_shorten(self._matcher.get_error() or "the token does not fit"))

    def compute_mask(self) -> Mask:
        """Return which tokens may come next: at the end of the text only those that end it."""
        mask = np.zeros(self._words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise BadGrammar(_shorten(self._matcher.get_error()))
        return mask


class GrammarCompiler:
    """Compiles grammars for one model. ``read_vocabulary`` is called once, when it is needed."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary], *, vocab_size: int) -> None:
        self._read_vocabulary = read_vocabulary
        self._vocab_size = vocab_size
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_COMPILING)

    async def start(self, grammar: Grammar) -> GrammarMatcher:
        """Return a matcher at the beginning of a text, compiled in a thread. Raises BadGrammar."""
        return await asyncio.to_thread(self.start_now, grammar)

    def start_now(self, grammar: Grammar) -> GrammarMatcher:
        """Return a matcher at the beginning of a text. Raises BadGrammar."""
        with self._lock:
            known = self._kept.get(grammar)
            if known is not None:
                self._kept.move_to_end(grammar)
        if known is None:
            with self._places:
                known = self._compile(grammar)
            with self._lock:
                self._kept[grammar] = known
                while len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
        return GrammarMatcher(known.deep_copy(), self._vocab_size)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        limits = _make_limits()
        with self._lock:
            tokenizer = self._tokenizer
        try:
            check_repeats(grammar)
            source = _translate(grammar)
        except ValueError as error:
            raise BadGrammar(_shorten(str(error))) from error
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
        if not matcher.is_error():
            # The first mask builds the lexer: what is too large shows here, not in an answer.
            probe = GrammarMatcher(matcher.deep_copy(), self._vocab_size)
            if not probe.compute_mask().any():
                raise BadGrammar(ALLOWS_NOTHING)
            return matcher
        raise BadGrammar(_shorten(matcher.get_error()))

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        try:
            vocabulary = self._read_vocabulary()
        except MeshError as error:
            raise BadGrammar(f"the tokenizer cannot be read: {error}") from error
        # Models pad their vocabulary: such a token has a number and no text.
        padding = [b""] * (self._vocab_size - len(vocabulary.tokens))
        source = _TokenSource(
            eos_token_id=vocabulary.end_token_ids[0],
            tokens=[*vocabulary.tokens, *padding],
            special_token_ids=list(vocabulary.special_token_ids),
            encode=vocabulary.encode,
        )
        return LLTokenizer(
            TokenizerWrapper(source),
            n_vocab=self._vocab_size,
            eos_token=list(vocabulary.end_token_ids),
            slices=[*SLICES],
        )


@dataclass(frozen=True)
class _TokenSource:
    """The attributes that llguidance reads of a tokenizer."""

    eos_token_id: int
    tokens: list[bytes]
    special_token_ids: list[int]
    encode: Callable[[str], Sequence[int]] | None
    bos_token_id: None = None

    def __call__(self, text: bytes) -> list[int]:
        """Return the tokens of what a grammar forces: the model's own, if they are these bytes.

        Only the first one is used, and the rest is asked for again with the next mask. So of a long
        text only the beginning is read: else a constant of 60 kB costs 0.4 s a token.
        """
        text = _cut_text(text, MAX_FORCED_BYTES)
        if self.encode is not None:
            found = [*self.encode(text.decode("utf-8", "replace"))]
            is_plain = not self._special.intersection(found)
            if is_plain and b"".join(self.tokens[token_id] for token_id in found) == text:
                return found
        return self._encode_greedily(text)

    def _encode_greedily(self, text: bytes) -> list[int]:
        found, start = [], 0
        while start < len(text):
            longest = min(self._longest, len(text) - start)
            pieces = (text[start : start + size] for size in range(longest, 0, -1))
            piece = next((piece for piece in pieces if piece in self._by_bytes), None)
            if piece is None:
                break
            found.append(self._by_bytes[piece])
            start += len(piece)
        return found

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.special_token_ids)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        known = enumerate(self.tokens)
        return {raw: token_id for token_id, raw in known if raw and token_id not in self._special}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_bytes))


def _cut_text(text: bytes, limit: int) -> bytes:
    """Return the beginning of a text in UTF-8, cut between two characters."""
    if len(text) <= limit:
        return text
    while limit and text[limit] & 0xC0 == 0x80:
        limit -= 1
    return text[:limit]


def _translate(grammar: Grammar) -> str:
    """Return the grammar in llguidance's own form. Raises ValueError for what is no JSON."""
    from llguidance import LLMatcher

    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            options = {"whitespace_pattern": WHITESPACE}
            return str(LLMatcher.grammar_from_json_schema(grammar.text, overrides=options))
        case GrammarKind.REGEX:
            return str(LLMatcher.grammar_from_regex(grammar.text))
        case GrammarKind.LARK:
            return str(LLMatcher.grammar_from_lark(grammar.text))


def _make_limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=200_000,
        step_lexer_fuel=20_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        precompute_large_lexemes=False,
    )


def _shorten(text: str) -> str:
    """Return one line of an error, without what llguidance adds: its place in our own grammar, and
    what is for its authors.
    """
    for beginning in ("<backtrace>", "<state>"):
        text = text.partition(beginning)[0]
    line = " ".join(_EXCERPT.split(_PLACE.sub("", text), maxsplit=1)[0].split())
    return ALLOWS_NOTHING if line == _NO_TEXT else line[:MAX_ERROR]
