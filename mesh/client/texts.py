"""The texts of one batch that a client drives: its rows, or the beams of a search."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mesh.client.driven_text import DrivenText, Logits, count_shared
from mesh.errors import InvalidRequest

MAX_ROWS = 16
"""Sessions that a hoster grants one client by default."""


class TextBatch:
    """Keeps one driven text for each row, and finds for each row the one that shares the most.

    Rows may change places, and several may continue one row, as the beams of a search do.
    """

    def __init__(self, make_text: Callable[[], DrivenText]) -> None:
        self._make_text = make_text
        self._texts: list[DrivenText] = []

    @property
    def texts(self) -> Sequence[DrivenText]:
        return tuple(self._texts)

    async def compute_logits(
        self, rows: Sequence[Sequence[int]], wanted: Sequence[int], *, capacity: int = 0
    ) -> list[Logits | None]:
        """Return each row's logits after its last ``wanted`` tokens; None where none are wanted.

        Raises InvalidRequest for too many rows, and what DrivenText raises.
        """
        if len(rows) > MAX_ROWS:
            raise InvalidRequest(
                "input_ids", f"at most {MAX_ROWS} rows at once (batch times beams), not {len(rows)}"
            )
        texts = self._assign(rows)

        async def compute(place: int) -> Logits | None:
            if not wanted[place]:
                return None
            return await texts[place].compute_logits(
                rows[place], wanted=wanted[place], capacity=capacity
            )

        # All rows come to an end before the first failure is raised: none is left half-way.
        found = await asyncio.gather(*map(compute, range(len(rows))), return_exceptions=True)
        logits: list[Logits | None] = []
        for result in found:
            if isinstance(result, BaseException):
                raise result
            logits.append(result)
        return logits

    def _assign(self, rows: Sequence[Sequence[int]]) -> list[DrivenText]:
        """Return a text for each row, the one with the longest common beginning first."""
        while len(self._texts) < len(rows):
            self._texts.append(self._make_text())
        if all(
            count_shared(text.tokens, row) == len(text.tokens)
            for text, row in zip(self._texts, rows, strict=False)
        ):
            return self._texts[: len(rows)]
        shared = [
            (-count_shared(text.tokens, row), place != number, place, number)
            for number, row in enumerate(rows)
            for place, text in enumerate(self._texts)
        ]
        chosen: dict[int, int] = {}
        for _, _, place, number in sorted(shared):
            if number not in chosen and place not in chosen.values():
                chosen[number] = place
        return [self._texts[chosen[number]] for number in range(len(rows))]

    async def close(self) -> None:
        """Free the caches of every row; idempotent."""
        await asyncio.gather(*(text.close() for text in self._texts))
