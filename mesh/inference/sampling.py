"""Sampling parameters and random draws. No tensors here: clients over HTTP use them too.

A draw is a function of (seed, index of the token): a hoster that takes over in the middle of
an answer draws the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from mesh.errors import InvalidRequest

MAX_STOP_TOKENS = 16
MAX_TOP_LOGPROBS = 20
MAX_TEMPERATURE = 100.0
MAX_REPETITION_PENALTY = 100.0
MAX_SEED = 2**64 - 1
_DRAW_TAG = b"mesh/draw"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 are off.

    ``stop_token_ids`` end the answer and belong to it. ``top_logprobs`` is how many alternatives
    travel with each token; the token's own log probability always does.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int = 0

    @property
    def is_plain_greedy(self) -> bool:
        """The largest logit wins and nothing else changes it."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0

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


def _check(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(field, f"must be from {low} to {high}, not {value}")


def compute_draw(seed: int, index: int) -> float:
    """Return a number in [0, 1) for the ``index``-th token of an answer."""
    message = _DRAW_TAG + seed.to_bytes(8, "little") + index.to_bytes(4, "little")
    # 53 bits fill a float64 exactly, so the result is never rounded up to 1.
    return (int.from_bytes(hashlib.sha256(message).digest()[:8], "little") >> 11) / 2**53
