"""What one API key may do: how many tokens a day, until when, and with which models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mesh.errors import InvalidRequest

MAX_KEY_MODELS = 16
MAX_MODEL_NAME = 256
"""Characters of a model's name in the file of keys."""


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """``tokens_per_day`` are those of prompts and answers in one day of UTC; None is no limit.

    ``expires_s`` is the Unix time from which on the key is refused; None is never. ``models`` are
    the names that it may ask for; none at all means every one.
    """

    tokens_per_day: int | None = None
    expires_s: int | None = None
    models: tuple[str, ...] = ()

    def check(self, *, now_s: int) -> None:
        """Raise InvalidRequest for terms that no new key can have."""
        if self.tokens_per_day is not None and self.tokens_per_day < 1:
            raise InvalidRequest("tokens_per_day", "must be at least 1")
        if self.expires_s is not None and self.expires_s <= now_s:
            raise InvalidRequest("expires", "is over already")
        if len(self.models) > MAX_KEY_MODELS:
            raise InvalidRequest("models", f"a key has at most {MAX_KEY_MODELS} models")
        if not all(0 < len(name) <= MAX_MODEL_NAME for name in self.models):
            raise InvalidRequest("models", f"a name has 1 to {MAX_MODEL_NAME} characters")

    def is_expired(self, *, now_s: float) -> bool:
        """Whether the key is refused now."""
        return self.expires_s is not None and now_s >= self.expires_s

    def allows_model(self, model_id: str) -> bool:
        """Whether the key may ask for a model."""
        return not self.models or model_id in self.models


NO_TERMS = KeyTerms()


def parse_moment(text: str) -> int:
    """Return the Unix time of ``2027-01-31`` or ``2027-01-31T18:00:00Z``, in UTC.

    Raises InvalidRequest.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("expires", "is a date such as 2027-01-31") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp())


def write_moment(unix_s: float) -> str:
    """Return a time as people and programs read it: ``2027-01-31T00:00:00Z``."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_terms(terms: KeyTerms) -> Sequence[str]:
    """Return the terms in words, none for a key without any."""
    told = []
    if terms.tokens_per_day is not None:
        told.append(f"{terms.tokens_per_day} tokens/day")
    if terms.expires_s is not None:
        told.append(f"until {write_moment(terms.expires_s)}")
    if terms.models:
        told.append("models " + ", ".join(terms.models))
    return told
