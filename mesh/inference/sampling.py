"""Sampling parameters and random draws. No tensors here: clients over HTTP use them too.

A draw is a function of (seed, index of the token): a hoster that takes over in the middle of
an answer draws the same numbers. What a draw chooses is the rule in mesh/inference/draws.py. Its
version belongs to the session protocol's (mesh/inference/wire.py), so that all hosters of an answer
have the same one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from mesh.errors import InvalidRequest
from mesh.inference.grammar import Grammar

MAX_STOP_TOKENS = 16
MAX_TOP_LOGPROBS = 20
MAX_TEMPERATURE = 100.0
MAX_REPETITION_PENALTY = 100.0
MAX_SEED = 2**64 - 1
MAX_PENALTY = 2.0
"""Of the frequency and presence penalties, in both directions, as in OpenAI's API."""
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_MIN_TOKENS = 1 << 18
DRAW_VERSION = 2
_DRAW_TAG = b"mesh/draw/%d" % DRAW_VERSION


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off.

    ``stop_token_ids`` end the answer and belong to it. ``top_logprobs`` is how many alternatives
    travel with each token; the token's own log probability always does.

    The others change the logits before a token is chosen, and never the log probabilities that are
    told. The penalties are subtracted for tokens of the answer so far, once for each time that one
    occurs and once if it does; ``logit_bias`` adds to single tokens; ``min_p`` leaves out tokens
    less likely than that part of the likeliest; no stop token comes among the first ``min_tokens``;
    ``grammar`` allows only what continues a text of it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_p: float = 0.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None

    @property
    def is_plain_greedy(self) -> bool:
        """The largest logit wins and nothing else changes it."""
        return (
            self.temperature == 0.0 and self.repetition_penalty == 1.0 and not self.changes_logits
        )

    @property
    def changes_logits(self) -> bool:
        """Something depends on the answer so far, or on single tokens."""
        return bool(
            self.frequency_penalty
            or self.presence_penalty
            or self.min_tokens
            or self.logit_bias
            or self.grammar
        )

    @property
    def is_shaped(self) -> bool:
        """It has a field that the first version of OPEN frames does not."""
        return self.changes_logits or self.min_p != 0.0

    def check(self) -> None:
        """Raise InvalidRequest naming the first impossible parameter."""
        _check("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _check("top_p", self.top_p, 0.0, 1.0)
        _check("top_k", self.top_k, 0, 2**32 - 1)
        _check("repetition_penalty", self.repetition_penalty, 0.01, MAX_REPETITION_PENALTY)
        _check("seed", self.seed, 0, MAX_SEED)
        _check("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p", "must be above 0")
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise InvalidRequest("stop_token_ids", f"at most {MAX_STOP_TOKENS}")
        _check("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("min_tokens", self.min_tokens, 0, MAX_MIN_TOKENS)
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest("logit_bias", f"at most {MAX_BIASES} tokens")
        for _, bias in self.logit_bias:
            _check("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
        if self.grammar is not None:
            self.grammar.check()
            if self.min_tokens:
                raise InvalidRequest("min_tokens", "a grammar says where the answer ends")
            if not self.stop_token_ids:
                raise InvalidRequest("ignore_eos", "an answer by a grammar ends with a stop token")


def _check(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(field, f"must be from {low} to {high}, not {value}")


def compute_draw(seed: int, index: int) -> float:
    """Return a number in [0, 1) for the ``index``-th token of an answer."""
    message = _DRAW_TAG + seed.to_bytes(8, "little") + index.to_bytes(4, "little")
    # 53 bits fill a float64 exactly, so the result is never rounded up to 1.
    return (int.from_bytes(hashlib.sha256(message).digest()[:8], "little") >> 11) / 2**53
