"""The compiler of grammars for one model, from the model's own tokenizer."""

from __future__ import annotations

from pathlib import Path

from mesh.client.tokenizer import ChatTokenizer
from mesh.inference.grammar_compiler import GrammarCompiler, Vocabulary, is_available
from mesh.model.config import ModelConfig


def make_grammar_compiler(
    source: Path | ChatTokenizer, config: ModelConfig
) -> GrammarCompiler | None:
    """Return the compiler of a model folder or GGUF file, or of a tokenizer that is there already.

    None without llguidance, and for a model that names no end token. Nothing is read before the
    first grammar comes.
    """
    if not is_available() or not config.eos_token_ids:
        return None

    def read() -> Vocabulary:
        tokenizer = source if isinstance(source, ChatTokenizer) else ChatTokenizer.load(source)
        return Vocabulary(
            tokens=tokenizer.list_token_bytes(config.vocab_size),
            special_token_ids=tokenizer.special_token_ids,
            end_token_ids=config.eos_token_ids,
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        )

    return GrammarCompiler(read, vocab_size=config.vocab_size)
