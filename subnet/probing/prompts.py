"""What a probe asks: a short question such as clients ask, drawn anew each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import InvalidRequest, ModelError
from mesh.model.config import ModelConfig

MAX_PROMPT_TOKENS = 128
MIN_RANDOM_TOKENS, MAX_RANDOM_TOKENS = 6, 24

MakePrompt = Callable[[Random], tuple[int, ...]]
"""Returns the token ids of one prompt."""

_FORMS = (
    "What is {}?",
    "Explain {} in two sentences.",
    "Tell me about {}.",
    "Why do people care about {}?",
    "Write a short note on {}.",
    "How would you describe {} to a friend?",
    "List three facts about {}.",
    "I have to give a talk on {}. Where do I begin?",
)
_TOPICS = (
    "the tides",
    "bread",
    "a chess opening",
    "the Roman roads",
    "learning to swim",
    "photosynthesis",
    "a good night's sleep",
    "prime numbers",
    "the history of maps",
    "growing tomatoes",
    "wind power",
    "old bicycles",
    "sorting a list",
    "the violin",
    "writing a letter",
    "volcanoes",
    "saving money",
    "city gardens",
    "the printing press",
    "migrating birds",
)


def make_prompter(source: Path, config: ModelConfig) -> MakePrompt:
    """Return what makes prompts for the model in ``source``: questions, or random tokens where
    the model has no tokenizer.
    """
    try:
        tokenizer = ChatTokenizer.load(source)
    except ModelError:
        return lambda random: draw_tokens(random, config.vocab_size)

    def make(random: Random) -> tuple[int, ...]:
        text = random.choice(_FORMS).format(random.choice(_TOPICS))
        token_ids = _encode(tokenizer, text)[-MAX_PROMPT_TOKENS:]
        is_possible = bool(token_ids) and max(token_ids) < config.vocab_size
        return token_ids if is_possible else draw_tokens(random, config.vocab_size)

    return make


def draw_tokens(random: Random, vocab_size: int) -> tuple[int, ...]:
    """Return random token ids."""
    count = random.randint(MIN_RANDOM_TOKENS, MAX_RANDOM_TOKENS)
    return tuple(random.randrange(vocab_size) for _ in range(count))


def _encode(tokenizer: ChatTokenizer, text: str) -> tuple[int, ...]:
    if tokenizer.has_chat_template:
        try:
            return tokenizer.encode_chat([{"role": "user", "content": text}])
        except InvalidRequest:
            pass
    return tokenizer.encode(text)
