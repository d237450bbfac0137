"""A text that stays in the hosters' caches between calls of ``generate``, as a chat needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mesh.client.cache import MeshCache
from mesh.errors import InvalidRequest


class InferenceSession:
    """The text so far. Made by ``model.inference_session(max_length=...)``.

    ``output_ids`` [batch, length] is the whole text, None before the first call.
    """

    def __init__(self, cache: MeshCache) -> None:
        self.output_ids: Tensor | None = None
        self._cache = cache

    @property
    def max_length(self) -> int | None:
        """How many tokens the text may have."""
        return self._cache.limit

    @property
    def position(self) -> int:
        """How many tokens of each row are at the hosters."""
        return self._cache.get_seq_length()

    def generate(
        self, run: Callable[..., Any], inputs: Tensor | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Append ``inputs`` to the text and go on from there; the result is only what is new.

        ``max_length`` counts the whole text, ``max_new_tokens`` what comes now.
        """
        _refuse_rows(args, kwargs)
        given = kwargs.pop("input_ids", None)
        text, mask = self._join(
            given if inputs is None else inputs, kwargs.pop("attention_mask", None)
        )
        if mask is not None:
            kwargs["attention_mask"] = mask
        kept = 0 if self.output_ids is None else self.output_ids.shape[1]
        result = run(text, *args, past_key_values=self._cache, **kwargs)
        self.output_ids = result if isinstance(result, Tensor) else result.sequences
        new = self.output_ids[:, kept:].clone()
        if isinstance(result, Tensor):
            return new
        result.sequences = new
        return result

    def _join(self, new: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the whole text and its mask; the mask is None where transformers finds it."""
        old = self.output_ids
        if old is None:
            if new is None:
                raise InvalidRequest("inputs", "a session begins with a prompt")
            return new, mask
        old_mask = torch.ones_like(old)
        cached = self._cache.mask
        if cached is not None:
            # The newest token has not been fed yet.
            shared = min(cached.shape[1], old.shape[1])
            old_mask[:, :shared] = cached[:, :shared]
        if new is None:
            return old, old_mask
        if new.shape[0] != old.shape[0]:
            raise InvalidRequest("inputs", f"{new.shape[0]} rows in a session of {old.shape[0]}")
        new_mask = torch.ones_like(new) if mask is None else mask
        return torch.cat((old, new), dim=1), torch.cat((old_mask, new_mask), dim=1)

    def close(self) -> None:
        """Free the hosters' memory; idempotent."""
        self._cache.close()


def _refuse_rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A session has one answer a row."""
    for name in ("num_beams", "num_return_sequences"):
        wanted = [kwargs.get(name), *(getattr(c, name, None) for c in args)]
        wanted.append(getattr(kwargs.get("generation_config"), name, None))
        if any((count or 1) > 1 for count in wanted):
            raise InvalidRequest(name, "a session goes on with one answer a row")
    if kwargs.get("past_key_values") is not None or kwargs.get("use_cache") is False:
        raise InvalidRequest("past_key_values", "a session has its own")
