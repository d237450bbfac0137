"""What changes the logits of an answer before each token is chosen, at the range that samples.

A change is a function of the sampling parameters and of the tokens of the answer so far, so a
hoster that takes over makes the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mesh.inference.grammar_compiler import BadGrammar, GrammarCompiler, GrammarMatcher, Mask
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampling import Sampling
from mesh.model.config import ModelConfig

if TYPE_CHECKING:
    from mesh.inference.wire import OpenSession

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ADDENDS = np.where(_BITS == 1, 0.0, -np.inf).astype(np.float32)
"""For each byte of a mask what is added to the logits of its eight tokens: [256, 8]."""


@dataclass(frozen=True, slots=True)
class LogitChange:
    """The change of one row: ``amounts`` are added at ``token_ids``, ``banned`` tokens never come,
    and none whose bit in ``mask`` is not set.
    """

    token_ids: Sequence[int] = ()
    amounts: Sequence[float] = ()
    banned: Sequence[int] = ()
    mask: Mask | None = None

    def apply(self, row: Tensor) -> None:
        """Change float64 logits [vocabulary] in place."""
        if self.token_ids:
            amounts = torch.tensor(self.amounts, dtype=row.dtype, device=row.device)
            row[list(self.token_ids)] += amounts
        if self.banned:
            row[list(self.banned)] = -torch.inf
        if self.mask is not None:
            _ban_unset(row, self.mask.view(np.uint8))


def _ban_unset(row: Tensor, packed: NDArray[np.uint8]) -> None:
    """Ban the tokens whose bit in ``packed`` is not set; the row's numbers are below infinity."""
    if row.device.type == "cpu":
        # Adding is several times as fast as filling by a mask, which branches on every number.
        row += torch.from_numpy(_ADDENDS.take(packed, axis=0).reshape(-1)[: row.shape[0]])
        return
    bits = np.unpackbits(packed, bitorder="little")[: row.shape[0]]
    row[torch.from_numpy(bits == 0).to(row.device)] = -torch.inf


class LogitShaper:
    """Follows one answer: what it counts, and where its grammar is."""

    def __init__(self, sampling: Sampling, matcher: GrammarMatcher | None = None) -> None:
        self._sampling = sampling
        self._matcher = matcher
        self._counts: dict[int, int] = {}
        self._length = 0
        self._change: LogitChange | None = None

    def fork(self) -> LogitShaper:
        """Return another shaper at the same place."""
        matcher = None if self._matcher is None else self._matcher.fork()
        other = LogitShaper(self._sampling, matcher)
        other._counts, other._length = dict(self._counts), self._length
        return other

    def note(self, token_id: int) -> None:
        """Take a token of the answer into account. Raises Refused(BAD_PARAMETER)."""
        self._length += 1
        self._change = None
        if self._sampling.frequency_penalty or self._sampling.presence_penalty:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1
        if self._matcher is not None:
            try:
                self._matcher.consume(token_id)
            except BadGrammar as error:
                raise Refused(RefusalReason.BAD_PARAMETER, f"grammar: {error}") from error

    def get_change(self) -> LogitChange:
        """Return what changes the next token's logits; computed once for each token.

        Raises Refused(BAD_PARAMETER) where the grammar is too complex to go on.
        """
        if self._change is None:
            self._change = self._compute()
        return self._change

    def _compute(self) -> LogitChange:
        sampling = self._sampling
        amounts = dict(sampling.logit_bias)
        for token_id, count in self._counts.items():
            penalty = sampling.presence_penalty + count * sampling.frequency_penalty
            amounts[token_id] = amounts.get(token_id, 0.0) - penalty
        is_early = self._length < sampling.min_tokens
        return LogitChange(
            token_ids=tuple(amounts),
            amounts=tuple(amounts.values()),
            banned=sampling.stop_token_ids if is_early else (),
            mask=self._compute_mask(),
        )

    def _compute_mask(self) -> Mask | None:
        if self._matcher is None:
            return None
        try:
            return self._matcher.compute_mask()
        except BadGrammar as error:
            raise Refused(RefusalReason.BAD_PARAMETER, f"grammar: {error}") from error


async def make_shaper(
    request: OpenSession, config: ModelConfig, grammars: GrammarCompiler | None
) -> LogitShaper | None:
    """Return the shaper of an answer after its tokens so far; None where nothing changes logits.

    Raises Refused(BAD_PARAMETER) for a token outside the vocabulary or an impossible grammar.
    """
    sampling = request.sampling
    if not sampling.changes_logits:
        return None
    named = [*(token_id for token_id, _ in sampling.logit_bias), *sampling.stop_token_ids]
    if named and max(named) >= config.vocab_size:
        raise Refused(RefusalReason.BAD_PARAMETER, "a token is outside the vocabulary")
    matcher = None
    if sampling.grammar is not None:
        if grammars is None:
            raise Refused(RefusalReason.BAD_PARAMETER, "this hoster takes no grammars")
        try:
            matcher = await grammars.start(sampling.grammar)
        except BadGrammar as error:
            raise Refused(RefusalReason.BAD_PARAMETER, f"grammar: {error}") from error
    shaper = LogitShaper(sampling, matcher)
    answered = request.token_ids[len(request.token_ids) - request.first_index :]
    for token_id in answered:
        shaper.note(token_id)
    return shaper
