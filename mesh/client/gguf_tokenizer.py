"""A tokenizer from a GGUF file's metadata: vocabulary, merges, special tokens, chat template.

Two kinds are in use: byte-level BPE (``gpt2``), where ``tokenizer.ggml.pre`` names how text is cut
before merging, and SentencePiece's (``llama``), whose merges follow from its scores. A cut that is
not known here is refused by name: with another one a model answers, but worse.

transformers' own conversion is the reference in the tests and not used: it takes GPT-2's cut for
every name that it does not know, and adds a token that the model may not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from mesh.errors import ModelError
from mesh.model.gguf_file import Value, read_vocabulary

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens in ``tokenizer.ggml.token_type``; the others are looked up by the merges."""
WORD_START = "▁"
MAX_PIECE_CHARACTERS = 256
"""Longer tokens of a SentencePiece vocabulary are reached by no merge."""
SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_QWEN2 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """How text is cut into words before merging. ``pattern`` None is GPT-2's.

    ``has_whole_words``: a word that is a token is taken whole, whatever the merges say.
    ``adds_bos``: unless the file says otherwise, a text begins with the first token.
    """

    pattern: str | None = None
    splits_digits: bool = False
    has_whole_words: bool = False
    adds_bos: bool = False

    def make(self) -> Any:
        """Return it for the tokenizers library."""
        if self.pattern is None:
            gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
            digits = pre_tokenizers.Digits(individual_digits=True)
            return pre_tokenizers.Sequence([digits, gpt2]) if self.splits_digits else gpt2
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )


_LLAMA3_CUT = Cut(_LLAMA3, has_whole_words=True, adds_bos=True)
_QWEN2_CUT = Cut(_QWEN2)
CUTS = {
    "gpt-2": Cut(),
    "smollm": Cut(splits_digits=True),
    "llama-bpe": _LLAMA3_CUT,
    "llama3": _LLAMA3_CUT,
    "llama-v3": _LLAMA3_CUT,
    "tekken": Cut(_TEKKEN, has_whole_words=True, adds_bos=True),
    "qwen2": _QWEN2_CUT,
    "deepseek-r1-qwen": _QWEN2_CUT,
}
"""``tokenizer.ggml.pre`` -> how llama.cpp cuts."""


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What a file says about text. ``special_tokens`` are the names that templates use."""

    tokenizer: Tokenizer
    template: Any
    special_tokens: Mapping[str, str]


def load_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """Build a file's tokenizer. Raises ModelFilesMissing or ModelError."""
    fields = read_vocabulary(path)
    try:
        tokenizer = _build(path.name, fields)
    except ModelError:
        raise
    # The tokenizers library raises plain Exception for merges that the vocabulary lacks.
    except Exception as error:
        raise ModelError(f"the tokenizer of {path.name} cannot be built: {error}") from error
    tokens = fields["tokenizer.ggml.tokens"]
    found = {name: _find_token(fields, tokens, key) for name, key in SPECIAL_TOKENS.items()}
    return GgufTokenizer(
        tokenizer,
        fields.get("tokenizer.chat_template"),
        {name: tokens[number] for name, number in found.items() if number is not None},
    )


def _build(name: str, fields: Mapping[str, Value]) -> Tokenizer:
    kind = fields.get("tokenizer.ggml.model")
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{name} has no vocabulary; name a file that has one")
    if kind == "gpt2":
        tokenizer, adds_bos = _build_byte_level(name, fields, tokens)
    elif kind == "llama":
        tokenizer, adds_bos = _build_sentencepiece(name, fields, tokens), True
    else:
        raise ModelError(f"{name} has the tokenizer {kind!r:.40}; gpt2 and llama are supported")
    _add_special_tokens(tokenizer, fields, tokens)
    _add_ends(tokenizer, fields, tokens, adds_bos=adds_bos)
    return tokenizer


def _build_byte_level(
    name: str, fields: Mapping[str, Value], tokens: list[str]
) -> tuple[Tokenizer, bool]:
    cut_name = fields.get("tokenizer.ggml.pre")
    cut = CUTS.get(cut_name) if isinstance(cut_name, str) else None
    if cut is None:
        raise ModelError(
            f"{name} cuts text as {cut_name!r:.40}; supported are {', '.join(CUTS)}. "
            "Name a file that a recent llama.cpp made"
        )
    merges = [tuple(merge.split(" ")) for merge in fields.get("tokenizer.ggml.merges", ())]
    model = BPE(vocab=_number(tokens), merges=merges, ignore_merges=cut.has_whole_words)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = cut.make()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, cut.adds_bos


def _build_sentencepiece(name: str, fields: Mapping[str, Value], tokens: list[str]) -> Tokenizer:
    scores = fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ModelError(f"{name} has no score for each token")
    unknown = _find_token(fields, tokens, "unknown_token_id")
    model = BPE(
        vocab=_number(tokens),
        merges=derive_merges(tokens, scores),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    begins_with_space = fields.get("tokenizer.ggml.add_space_prefix", True)
    prepend = [normalizers.Prepend(WORD_START)] if begins_with_space else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", WORD_START)])
    strip = [decoders.Strip(" ", left=1, right=0)] if begins_with_space else []
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_START, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *strip,
        ]
    )
    return tokenizer


def derive_merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Return the merges that a SentencePiece vocabulary implies, the best first.

    Two adjacent pieces merge where both and their sum are tokens; the sum's score is the rank, and
    among equals the longer left piece goes first.
    """
    numbers = _number(tokens)
    merges = []
    for token, number in numbers.items():
        if len(token) > MAX_PIECE_CHARACTERS:
            continue
        for middle in range(1, len(token)):
            left, right = token[:middle], token[middle:]
            if left in numbers and right in numbers:
                merges.append(((-scores[number], -len(left), -len(right)), (left, right)))
    return [merge for _, merge in sorted(merges, key=lambda ranked: ranked[0])]


def _number(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _add_special_tokens(
    tokenizer: Tokenizer, fields: Mapping[str, Value], tokens: list[str]
) -> None:
    """Keep control and user-defined tokens whole; only the first kind is hidden in answers."""
    types = fields.get("tokenizer.ggml.token_type", ())
    for kind in (CONTROL, USER_DEFINED):
        is_special = kind == CONTROL
        added = [
            AddedToken(token, special=is_special, normalized=False)
            for token, found in zip(tokens, types, strict=False)
            if found == kind and token
        ]
        if is_special:
            tokenizer.add_special_tokens(added)
        else:
            tokenizer.add_tokens(added)


def _add_ends(
    tokenizer: Tokenizer, fields: Mapping[str, Value], tokens: list[str], *, adds_bos: bool
) -> None:
    """Begin and end plain texts with the tokens that the file asks for."""
    wanted = {
        "bos": fields.get("tokenizer.ggml.add_bos_token", adds_bos),
        "eos": fields.get("tokenizer.ggml.add_eos_token", False),
    }
    numbers = {end: _find_token(fields, tokens, f"{end}_token_id") for end in wanted}
    ends = {end: number for end, number in numbers.items() if wanted[end] and number is not None}
    if ends:
        tokenizer.post_processor = TemplateProcessing(
            single=[*(["bos"] if "bos" in ends else []), "$A", *(["eos"] if "eos" in ends else [])],
            special_tokens=[
                {"id": end, "ids": [number], "tokens": [tokens[number]]}
                for end, number in ends.items()
            ],
        )


def _find_token(fields: Mapping[str, Value], tokens: list[str], key: str) -> int | None:
    """Return a token's number; None where the file names none that it has."""
    number = fields.get(f"tokenizer.ggml.{key}")
    is_known = isinstance(number, int) and 0 <= number < len(tokens)
    return number if is_known else None
