"""Embeddings of texts: the last hidden states that the swarm computes, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mesh.client.driven_text import DrivenText, Logits
from mesh.client.route_session import HopFailed
from mesh.inference.drive_wire import HIDDEN_METHOD
from mesh.inference.refusals import RefusalReason


class HiddenText(DrivenText):
    """A text at the swarm whose last hidden states are wanted. Several texts may go through one,
    one after the other; :meth:`close` frees the caches.
    """

    method: ClassVar[str] = HIDDEN_METHOD
    takes_refills: ClassVar[bool] = False

    @property
    def width(self) -> int:
        return self._client.config.hidden_size

    async def compute_hidden(
        self, token_ids: Sequence[int], *, capacity: int = 0
    ) -> NDArray[np.float32]:
        """Return the hidden states after the final norm, [tokens, hidden_size], of a whole text.

        Raises as :meth:`compute_logits` does.
        """
        return await self.compute_logits(token_ids, wanted=len(token_ids), capacity=capacity)

    async def compute_mean(
        self, token_ids: Sequence[int], *, capacity: int = 0
    ) -> NDArray[np.float32]:
        """Return the mean of the hidden states over the text's tokens, [hidden_size]."""
        hidden = await self.compute_hidden(token_ids, capacity=capacity)
        mean: NDArray[np.float32] = hidden.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def _check_rows(self, rows: Logits) -> None:
        if not np.isfinite(rows).all():
            # Which range spoilt it, the last one cannot know.
            raise HopFailed(None, RefusalReason.MALFORMED, "a hidden state is not finite")
