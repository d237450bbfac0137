"""Choosing tokens from logits, row by row, so that a row does not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


def sample_rows(logits: Tensor, requests: Sequence[SampleRequest]) -> list[Token]:
    """Choose one token for each row of float32 ``logits`` [rows, vocabulary]."""
    logits = logits.cpu()
    # Values and places in one pass: faster than argmax.
    values, places = logits.max(dim=-1)
    best, best_ids = values.tolist(), places.tolist()
    totals = torch.logsumexp(logits, dim=-1).tolist()
    chosen = []
    for row, request in enumerate(requests):
        sampling = request.sampling
        if sampling.is_plain_greedy and not sampling.top_logprobs:
            chosen.append(Token(best_ids[row], best[row] - totals[row]))
            continue
        token_id = best_ids[row] if sampling.is_plain_greedy else _choose(logits[row], request)
        chosen.append(_describe(logits[row], totals[row], token_id, sampling.top_logprobs))
    return chosen


def score_rows(logits: Tensor, next_ids: Sequence[int], top_count: int) -> tuple[Token, ...]:
    """Return for each row of ``logits`` the log probability of the token that follows it in the
    text, and the likeliest ones. The rows may be one more than the tokens: nothing follows it.
    """
    logits = logits[: len(next_ids)].cpu()
    totals = torch.logsumexp(logits, dim=-1).tolist()
    return tuple(
        _describe(row, total, token_id, top_count)
        for row, total, token_id in zip(logits, totals, next_ids, strict=True)
    )


def _choose(row: Tensor, request: SampleRequest) -> int:
    sampling = request.sampling
    # A range before this one may send NaN or infinity; that may spoil its own session only.
    scores = torch.nan_to_num(row.double())
    if request.change is not None:
        scores = request.change.apply(scores)
    if sampling.repetition_penalty != 1.0 and request.seen:
        seen = torch.tensor(sorted(set(request.seen)))
        old = scores[seen]
        penalty = sampling.repetition_penalty
        scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    # Sorted by score, then by token id, so that ties do not depend on the machine.
    ordered, token_ids = torch.sort(scores, descending=True, stable=True)
    # Differences to the largest, so that no temperature makes an infinity of them.
    ordered = (ordered - ordered[0]) / sampling.temperature
    if sampling.top_k:
        ordered, token_ids = ordered[: sampling.top_k], token_ids[: sampling.top_k]
    probabilities = torch.softmax(ordered, dim=-1)
    if sampling.min_p:
        # In falling order, so what stays is a beginning; the likeliest always does.
        kept = int((probabilities >= sampling.min_p * probabilities[0]).sum())
        probabilities = probabilities[:kept] / probabilities[:kept].sum()
    cumulative = probabilities.cumsum(dim=-1)
    if sampling.top_p < 1.0:
        # A token stays while the ones before it have not yet reached top_p: at least one does.
        kept = int((cumulative - probabilities < sampling.top_p).sum())
        cumulative = cumulative[: max(1, kept)]
    draw = compute_draw(sampling.seed, request.index) * float(cumulative[-1])
    place = int(torch.searchsorted(cumulative, draw, right=True))
    return int(token_ids[min(place, len(cumulative) - 1)])


def _describe(row: Tensor, total: float, token_id: int, top_count: int) -> Token:
    logprob = float(row[token_id]) - total
    if not top_count:
        return Token(token_id, logprob)
    values, token_ids = torch.topk(row, min(top_count, row.shape[0]))
    pairs = zip(token_ids.tolist(), values.tolist(), strict=True)
    return Token(token_id, logprob, tuple(Alternative(i, value - total) for i, value in pairs))
