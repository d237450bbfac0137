"""Choosing tokens from logits on the device that they are on, each row for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mesh.inference.device_reads import HostCopy
from mesh.inference.draws import Draws
from mesh.inference.row_sums import reduce_rows
from mesh.inference.sampling import Sampling, compute_draw
from mesh.inference.shaping import LogitChange
from mesh.inference.tokens import Alternative, Token


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """How to choose the ``index``-th token; ``seen`` are the tokens that a penalty counts.

    ``change`` is made to the row before the token is chosen.
    """

    sampling: Sampling
    index: int
    seen: Sequence[int] = ()
    change: LogitChange | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """Of each row: the largest logit, its token id, and the log of the sum of all exponentials."""

    values: Tensor
    token_ids: Tensor
    totals: Tensor

    def select(self, rows: list[int]) -> Best:
        """Return these rows."""
        return Best(self.values[rows], self.token_ids[rows], self.totals[rows])


def find_best(logits: Tensor) -> Best:
    """Return the best of each row of float32 ``logits`` [rows, vocabulary]."""
    # Values and places in one pass: on a CPU faster than argmax.
    values, places = logits.max(dim=-1)
    return Best(values, places, sum_exponentials(logits))


def sum_exponentials(logits: Tensor) -> Tensor:
    """Return the log of the sum of all exponentials of each row: torch.logsumexp."""
    return reduce_rows(partial(torch.logsumexp, dim=-1), logits)


def sample_rows(logits: Tensor, requests: Sequence[SampleRequest]) -> list[Token]:
    """Choose one token for each row of float32 ``logits`` [rows, vocabulary]."""
    return PendingTokens(logits, requests, find_best(logits)).read()


class PendingTokens:
    """Chooses one token for each row of float32 ``logits`` [rows, vocabulary].

    Making it does not wait for the device, and the logits may be overwritten afterwards.
    ``token_ids`` int64 [rows] stay on the device; :meth:`read` may still draw another token for the
    rows ``unsure``.
    """

    def __init__(self, logits: Tensor, requests: Sequence[SampleRequest], best: Best) -> None:
        self._requests = requests
        self._drawn = [i for i, r in enumerate(requests) if not r.sampling.is_plain_greedy]
        self._draws: Draws | None = None
        self.token_ids, chosen = best.token_ids, best.values
        if self._drawn:
            self._draws = _start_draws(logits, requests, self._drawn)
            self.token_ids = self.token_ids.index_copy(
                0, torch.tensor(self._drawn, device=logits.device), self._draws.token_ids
            )
            chosen = logits.gather(1, self.token_ids.unsqueeze(1)).squeeze(1)
        columns = (self.token_ids, chosen, best.totals)
        self._numbers = HostCopy(torch.stack([column.double() for column in columns]))
        self._tops = _start_tops(logits, requests)
        self._kept = {row: logits[row].clone() for row in self.unsure}
        self.redrawn: frozenset[int] = frozenset()
        """Rows whose token changed when it was read."""

    @property
    def unsure(self) -> list[int]:
        """Rows whose token may change when it is read; known without waiting."""
        return [] if self._draws is None else [self._drawn[i] for i in self._draws.unsure]

    def read(self) -> list[Token]:
        """Wait for the device, and return the tokens."""
        ids, values, totals = self._numbers.read().tolist()
        settled = () if self._draws is None else self._draws.settle()
        changed = {self._drawn[place]: token_id for place, token_id in settled}
        self.redrawn = frozenset(changed)
        for row, token_id in changed.items():
            ids[row], values[row] = token_id, float(self._kept[row][token_id])
        others = _read_tops(self._tops, self._requests, totals)
        return [
            Token(int(token_id), value - total, others.get(row, ()))
            for row, (token_id, value, total) in enumerate(zip(ids, values, totals, strict=True))
        ]


def _start_draws(logits: Tensor, requests: Sequence[SampleRequest], rows: Sequence[int]) -> Draws:
    some = logits if len(rows) == len(requests) else logits[[*rows]]
    # A range before this one may send NaN or infinity; that may spoil its own session only.
    scores = torch.nan_to_num(some.double())
    chosen = [requests[row] for row in rows]
    for row, request in zip(scores, chosen, strict=True):
        if request.change is not None:
            request.change.apply(row)
        _penalise(row, request)
    draws = [compute_draw(request.sampling.seed, request.index) for request in chosen]
    return Draws(scores, [request.sampling for request in chosen], draws)


def _penalise(row: Tensor, request: SampleRequest) -> None:
    penalty = request.sampling.repetition_penalty
    if penalty == 1.0 or not request.seen:
        return
    seen = torch.tensor(sorted(set(request.seen)), device=row.device)
    old = row[seen]
    row[seen] = torch.where(old < 0, old * penalty, old / penalty)


def _start_tops(logits: Tensor, requests: Sequence[SampleRequest]) -> HostCopy | None:
    """Start to find the likeliest tokens of the rows that want some: ids and logits."""
    rows = [row for row, request in enumerate(requests) if request.sampling.top_logprobs]
    if not rows:
        return None
    most = max(requests[row].sampling.top_logprobs for row in rows)
    values, token_ids = logits[rows].topk(min(most, logits.shape[1]))
    return HostCopy(torch.stack((token_ids.double(), values.double())))


def _read_tops(
    tops: HostCopy | None, requests: Sequence[SampleRequest], totals: Sequence[float]
) -> dict[int, tuple[Alternative, ...]]:
    if tops is None:
        return {}
    rows = [row for row, request in enumerate(requests) if request.sampling.top_logprobs]
    return {
        row: tuple(
            Alternative(int(token_id), value - totals[row])
            for token_id, value in zip(ids, values, strict=True)
        )[: requests[row].sampling.top_logprobs]
        for row, ids, values in zip(rows, *tops.read().tolist(), strict=True)
    }


def score_rows(logits: Tensor, next_ids: Sequence[int], top_count: int) -> tuple[Token, ...]:
    """Return for each row of ``logits`` the log probability of the token that follows it in the
    text, and the likeliest ones. The rows may be one more than the tokens: nothing follows it.
    """
    logits = logits[: len(next_ids)].cpu()
    totals = sum_exponentials(logits).tolist()
    return tuple(
        _describe(row, total, token_id, top_count)
        for row, total, token_id in zip(logits, totals, next_ids, strict=True)
    )


def _describe(row: Tensor, total: float, token_id: int, top_count: int) -> Token:
    logprob = float(row[token_id]) - total
    if not top_count:
        return Token(token_id, logprob)
    values, token_ids = torch.topk(row, min(top_count, row.shape[0]))
    pairs = zip(token_ids.tolist(), values.tolist(), strict=True)
    return Token(token_id, logprob, tuple(Alternative(i, value - total) for i, value in pairs))
