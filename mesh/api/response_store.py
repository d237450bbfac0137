"""Responses that are kept because their caller asked for it, in memory and within bounds.

Only the key that made a response finds it. The oldest go first: of a caller that has more than its
share, and of all. A restart forgets everything.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.api.limits import (
    KEEP_RESPONSES_S,
    MAX_KEPT_RESPONSE_BYTES,
    MAX_KEPT_RESPONSE_BYTES_OF_KEY,
    MAX_KEPT_RESPONSES,
    MAX_KEPT_RESPONSES_OF_KEY,
)
from mesh.api.problems import Problem, quote_name

Items = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """``items`` are the conversation up to the response's end, as a later input has them."""

    caller: str
    response: dict[str, Any]
    items: Items
    kept_s: float
    size: int


@dataclass(slots=True)
class ResponseStore:
    """Kept responses, the oldest first. Times are monotonic."""

    max_bytes: int = MAX_KEPT_RESPONSE_BYTES
    max_responses: int = MAX_KEPT_RESPONSES
    max_of_key: int = MAX_KEPT_RESPONSES_OF_KEY
    max_bytes_of_key: int = MAX_KEPT_RESPONSE_BYTES_OF_KEY
    _kept: OrderedDict[str, KeptResponse] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def keep(self, caller: str, response: dict[str, Any], items: Items, *, now_s: float) -> None:
        """Keep a response that has ended."""
        size = len(json.dumps(response)) + len(json.dumps(items))
        self._kept[response["id"]] = KeptResponse(caller, response, items, now_s, size)
        self._bytes += size
        self._drop_own(caller)
        self._drop_old(now_s)

    def find(self, caller: str, response_id: str, *, param: str, now_s: float) -> KeptResponse:
        """Return a response of this caller. Raises Problem 404 that names ``param``."""
        self._drop_old(now_s)
        kept = self._kept.get(response_id)
        if kept is None or kept.caller != caller:
            raise Problem(
                404,
                f"No response '{quote_name(response_id)}' is kept: only those made with "
                "'store': true are, for a while.",
                param=param,
                code="response_not_found",
            )
        return kept

    def forget(self, caller: str, response_id: str, *, param: str, now_s: float) -> None:
        """Drop a response of this caller. Raises Problem 404."""
        self.find(caller, response_id, param=param, now_s=now_s)
        self._drop(response_id)

    def _drop_own(self, caller: str) -> None:
        """Drop the oldest of a caller who has more than its share."""
        own = [(name, kept.size) for name, kept in self._kept.items() if kept.caller == caller]
        count, size = len(own), sum(size for _, size in own)
        for name, of_this in own:
            if count <= self.max_of_key and size <= self.max_bytes_of_key:
                return
            self._drop(name)
            count, size = count - 1, size - of_this

    def _drop_old(self, now_s: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept))
            is_old = self._kept[oldest].kept_s <= now_s - KEEP_RESPONSES_S
            if not (is_old or self._bytes > self.max_bytes or len(self._kept) > self.max_responses):
                return
            self._drop(oldest)

    def _drop(self, response_id: str) -> None:
        self._bytes -= self._kept.pop(response_id).size
