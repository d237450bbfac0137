"""A cache with transformers' interface, for texts whose keys and values are at the hosters.

Only token ids are kept here. A closed cache still knows its text: using it again replays it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from mesh.client.bridge import LoopBridge, LoopClosed
from mesh.client.texts import TextBatch
from mesh.errors import InvalidRequest

GROWTH_TOKENS = 256
"""Room that a cache without a known length asks for beyond its text."""


class MeshCache(Cache):  # type: ignore[misc]
    """The rows of a batch: token ids and mask [batch, length], padding included.

    ``limit`` is how many tokens a row may have; None is the model's context.
    """

    def __init__(self, batch: TextBatch, bridge: LoopBridge, *, limit: int | None = None) -> None:
        super().__init__(layers=[])
        self.batch = batch
        self.limit = limit
        self._reserved = limit or 0
        self.token_ids: Tensor | None = None
        self.mask: Tensor | None = None
        self._bridge = bridge
        # A forgotten cache must not hold the hosters' memory.
        weakref.finalize(self, bridge.post, batch.close).atexit = False

    def compute_logits(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, columns: int, vocab_size: int
    ) -> Tensor:
        """Append ``input_ids`` [batch, new]; return float32 logits [batch, columns, vocabulary].

        ``attention_mask`` covers what the cache holds and the new columns. Masked positions are
        left out of the text, and their logits are zero.
        """
        token_ids = _append(self.token_ids, input_ids)
        mask = self._make_mask(attention_mask, token_ids)
        kept = mask.bool()
        rows = [row[keep].tolist() for row, keep in zip(token_ids, kept, strict=True)]
        wanted = kept[:, kept.shape[1] - columns :].sum(dim=1).tolist()
        found = self._bridge.run(
            self.batch.compute_logits(rows, wanted, capacity=self._choose_capacity(rows))
        )
        self.token_ids, self.mask = token_ids, mask
        logits = torch.zeros(len(rows), columns, vocab_size)
        for place, row in enumerate(found):
            if row is not None:
                logits[place, kept[place, kept.shape[1] - columns :]] = torch.from_numpy(row)
        return logits

    def _make_mask(self, given: Tensor | None, token_ids: Tensor) -> Tensor:
        if given is None:
            new = torch.ones_like(token_ids)
            if self.mask is not None:
                new[:, : self.mask.shape[1]] = self.mask
            return new
        if given.shape != token_ids.shape:
            raise InvalidRequest(
                "attention_mask",
                f"must be {list(token_ids.shape)}, the cached tokens and the new ones, "
                f"not {list(given.shape)}",
            )
        return given.to("cpu", torch.long)

    def reserve(self, tokens: int) -> None:
        """Say how long the rows may become. Raises InvalidRequest beyond the limit."""
        if self.limit is not None and tokens > self.limit:
            raise InvalidRequest(
                "max_length", f"{tokens} tokens do not fit into a session of {self.limit}"
            )
        self._reserved = self.limit or tokens

    def _choose_capacity(self, rows: Sequence[Sequence[int]]) -> int:
        longest = max(map(len, rows))
        return self._reserved if longest <= self._reserved else longest + GROWTH_TOKENS

    def close(self) -> None:
        """Free the hosters' memory; idempotent."""
        # A closed client has freed it already.
        with contextlib.suppress(LoopClosed):
            self._bridge.run(self.batch.close())

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return self.token_ids is not None

    @property
    def is_croppable(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.get_seq_length()

    def __repr__(self) -> str:
        return f"MeshCache({self.get_seq_length()} tokens)"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns the cache holds."""
        return 0 if self.token_ids is None else int(self.token_ids.shape[1])

    def activate_past_recording(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: every earlier state can be gone back to."""

    def crop(self, columns: int) -> None:
        """Remove the last ``-columns``, or keep the first ``columns`` as older transformers ask."""
        kept = columns if columns > 0 else max(0, self.get_seq_length() + columns)
        if self.token_ids is not None and self.mask is not None:
            self.token_ids, self.mask = self.token_ids[:, :kept], self.mask[:, :kept]

    def reset(self) -> None:
        """Forget the text."""
        self.token_ids = self.mask = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from row ``beam_idx[i]``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.token_ids is not None and self.mask is not None:
            rows = indices.to("cpu")
            self.token_ids, self.mask = self.token_ids[rows], self.mask[rows]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.token_ids is not None and self.mask is not None:
            self.token_ids = self.token_ids.repeat_interleave(repeats, dim=0)
            self.mask = self.mask.repeat_interleave(repeats, dim=0)


def _append(old: Tensor | None, new: Tensor) -> Tensor:
    if new.ndim != 2 or not new.shape[1]:
        raise InvalidRequest("input_ids", f"must be [batch, tokens], not {list(new.shape)}")
    new = new.to("cpu", torch.long)
    if old is None:
        return new
    if old.shape[0] != new.shape[0]:
        raise InvalidRequest(
            "input_ids", f"{new.shape[0]} rows follow a cache of {old.shape[0]} rows"
        )
    return torch.cat((old, new), dim=1)
