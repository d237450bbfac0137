"""Drawing tokens from penalised scores, by the rule of ``DRAW_VERSION`` 2.

**The rule**, in float64, for each row:

1. Every score is divided by the temperature. Its weight is the exponential of its distance to
   the largest.
2. ``top_k`` keeps so many of the largest scores, ``min_p`` of those the ones whose weight is at
   least that. ``top_p`` keeps of what is left the shortest sequence, the largest first, whose
   weights reach that part of the weight of all that is left. Of equal scores those of smaller token
   ids come first. A score of minus infinity is never kept.
3. The cumulative weights of what is kept, in the order of the vocabulary, are compared with the
   draw times their sum: the first token whose cumulative weight is larger is chosen.

The vocabulary is not sorted. Without top_k and top_p there is nothing to order. Otherwise the
``CANDIDATES`` largest scores say where the edge is. Where they do not reach ``top_p``, which is
only known once the device is done, :meth:`Draws.settle` orders all scores of the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from mesh.inference.device_reads import HostCopy
from mesh.inference.row_sums import reduce_rows
from mesh.inference.sampling import Sampling

CANDIDATES = 256
"""Scores among which the edge of top_p is looked for first."""


class Draws:
    """Tokens drawn for rows of float64 ``scores`` [rows, vocabulary], on their device.

    A row has a finite score, and others may be minus infinity; the scores are changed. ``draws``
    are from [0, 1). ``token_ids`` is int64 [rows]. Temperature 0 takes the largest score.
    """

    def __init__(
        self, scores: Tensor, samplings: Sequence[Sampling], draws: Sequence[float]
    ) -> None:
        numbers = [
            (s.temperature or 1.0, s.top_k or scores.shape[1], s.top_p, draw)
            for s, draw in zip(samplings, draws, strict=True)
        ]
        self._scores = scores
        self._numbers = torch.tensor(numbers, dtype=torch.float64).to(scores.device)
        self.token_ids = scores.argmax(-1)
        self.unsure: list[int] = []
        """Rows for which the candidates may be too few."""
        self._is_unsure: HostCopy | None = None
        self._drop_unlikely(samplings)
        self._draw(samplings)

    def _drop_unlikely(self, samplings: Sequence[Sampling]) -> None:
        rows = [i for i, s in enumerate(samplings) if s.temperature and s.min_p]
        if rows:
            least = torch.tensor([[samplings[i].min_p] for i in rows], dtype=torch.float64)
            is_unlikely = self._weigh(rows) < least.to(self._scores.device)
            self._scores[rows] = self._scores[rows].masked_fill(is_unlikely, -torch.inf)

    def _draw(self, samplings: Sequence[Sampling]) -> None:
        vocabulary = self._scores.shape[1]
        free = [i for i, s in enumerate(samplings) if s.temperature and not _is_cut(s, vocabulary)]
        cut = [i for i, s in enumerate(samplings) if s.temperature and _is_cut(s, vocabulary)]
        if free:
            self._put(free, self._weigh(free))
        if cut:
            count = max(min(s.top_k, vocabulary) for s in (samplings[i] for i in cut))
            count = min(vocabulary, max(count, CANDIDATES))
            weights, is_unsure = self._cut(cut, count)
            self._put(cut, weights)
            if count < vocabulary:
                self.unsure = cut
                self._is_unsure = HostCopy(is_unsure)

    def _weigh(self, rows: list[int]) -> Tensor:
        scores = self._scores[rows]
        largest = scores.amax(-1, keepdim=True)
        return ((scores - largest) / self._numbers[rows, :1]).exp_()

    def _cut(self, rows: list[int], count: int) -> tuple[Tensor, Tensor]:
        """Return the weights, 0 for what is not kept, and which rows ``count`` may not suffice."""
        scores, weights = self._scores[rows], self._weigh(rows)
        temperature, top_k, top_p, _ = self._numbers[rows].unsqueeze(-1).unbind(1)
        top = scores.topk(count).values
        top_weights = ((top - top[:, :1]) / temperature).exp_()
        places = torch.arange(count, device=scores.device)
        is_within_k = places < top_k
        summed = top_weights.masked_fill(~is_within_k, 0.0).cumsum(-1)
        # Where top_k is off, all that is not a candidate counts too.
        is_whole = top_k >= scores.shape[1]
        whole = reduce_rows(partial(torch.sum, dim=-1, keepdim=True), weights)
        total = torch.where(is_whole, whole, summed[:, -1:])
        is_kept = is_within_k & ((summed - top_weights) < top_p * total)
        kept = is_kept.sum(-1, keepdim=True).clamp_(min=1)
        # Unless the last candidate is beyond the edge, more may belong to it.
        is_unsure = is_kept[:, -1] & (top_k.squeeze(1) > count)
        edge = top.gather(1, kept - 1)
        is_equal = scores == edge
        ties = kept - (top > edge).sum(-1, keepdim=True)
        stays = (scores > edge) | (is_equal & (is_equal.cumsum(-1) <= ties))
        return weights.masked_fill_(~stays, 0.0), is_unsure

    def _put(self, rows: list[int], weights: Tensor) -> None:
        summed = weights.cumsum(-1)
        total = summed[:, -1:]
        # A draw near 1 must not be rounded up to the sum itself.
        below = torch.nextafter(total, torch.zeros_like(total))
        target = torch.minimum(self._numbers[rows, 3:] * total, below)
        places = torch.searchsorted(summed, target, right=True).squeeze(1)
        self.token_ids[rows] = places

    def settle(self) -> Iterator[tuple[int, int]]:
        """Wait for the device; yield the rows that are drawn otherwise, and their tokens."""
        if self._is_unsure is None:
            return
        for row, is_unsure in zip(self.unsure, self._is_unsure.read().tolist(), strict=True):
            if is_unsure:
                weights, _ = self._cut([row], self._scores.shape[1])
                self._put([row], weights)
                yield row, int(self.token_ids[row])


def _is_cut(sampling: Sampling, vocabulary: int) -> bool:
    return sampling.top_p < 1.0 or 0 < sampling.top_k < vocabulary
