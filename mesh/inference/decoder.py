"""Decode steps through captured graphs, started without waiting for what they give.

Theory of operation
===================

A step is *started*: its inputs are staged, its kernels launched, its tokens drawn, and its outputs
put on their way to the CPU. It is *read* later. Between the two, the compute thread starts the next
step and tells the tokens of the one before, so that the card does not wait for Python.

**Going on.** The token of a step is known to the card before it is known to the CPU, and the next
step takes it from there. A session whose step ``goes_on`` promises that its next step is the row of
the chosen token. A promise may be broken, by a stop token above all. Then the row of the next step
is thrown away. What it wrote stands after the end of the text, where the next row overwrites it.

A next step is started only if every session of the batch promises one and has a page for it. Most
steps are of that kind; others wait for the CPU, as every step does without graphs.

**Windows** (mesh/inference/windows.py) are rows like any others. Those of one session stand side by
side with the same table, each at its own place in the text, and each attends up to there. A session
with a window promises nothing: what comes next is known when its tokens are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.device_reads import HostCopy
from mesh.inference.refusals import Refused
from mesh.inference.sampler import Best, PendingTokens, SampleRequest, score_rows
from mesh.inference.steps import Job, StepInput, StepOutput
from mesh.inference.tensors import HiddenBuffer
from mesh.inference.tokens import Token
from mesh.inference.wire import HiddenRows
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.decode_step import FROM_LAST_STEP
from mesh.model.llama import ShardRunner
from mesh.model.step_graphs import Launched, StepGraphs


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that was started for ``jobs``; None is one whose only row is thrown away.

    ``suspicion`` is the challenge guard's, still on the device.
    """

    jobs: tuple[Job | None, ...]
    first_rows: tuple[int, ...]
    """Where each job's rows begin."""
    tokens: PendingTokens | None
    """Of the rows ``sampled``, which rise."""
    sampled: tuple[int, ...]
    logits: dict[int, HostCopy]
    """All rows of some jobs, by place."""
    hidden: HostCopy | None
    suspicion: Tensor | None


class Decoder:
    """Starts and reads the decode steps of one shard. Used from the compute thread only."""

    def __init__(
        self, runner: ShardRunner, graphs: StepGraphs, buffer: HiddenBuffer, guard: ChallengeGuard
    ) -> None:
        self._runner = runner
        self._graphs = graphs
        self._buffer = buffer
        self._guard = guard
        self._is_last = runner.weights.head is not None

    def takes(self, batch: Sequence[Job]) -> bool:
        """Whether a batch is decode rows, no more than the largest step has, of sessions through
        all layers of the shard, for tokens or logits.
        """
        weights, span = self._runner.weights, batch[0].session.span
        is_whole = (span.start, span.end) == (weights.start, weights.end)
        steps = [job.step for job in batch]
        fits = sum(step.rows for step in steps) <= self._graphs.max_rows
        are_decodes = all(step.is_decode and not step.wants_hidden for step in steps)
        return is_whole and fits and are_decodes

    @torch.inference_mode()
    def start(self, batch: Sequence[Job]) -> PendingStep:
        """Start the step of a batch. Raises ValueError for a table that points outside."""
        positions = [job.session.kept + row for job in batch for row in range(job.step.rows)]
        if self._runner.weights.start:
            hidden = self._buffer.read([_get_hidden(job.step) for job in batch])
            return self._launch(batch, [0] * len(positions), positions, hidden)
        vocabulary = self._runner.weights.config.vocab_size
        token_ids = [token for job in batch for token in _get_tokens(job.step, vocabulary)]
        return self._launch(batch, token_ids, positions, None)

    @torch.inference_mode()
    def start_next(self, pending: PendingStep) -> PendingStep | None:
        """Start the step after one that is not read yet; None unless all sessions promise it."""
        jobs = [job for job in pending.jobs if job is not None and _may_go_on(job)]
        if len(jobs) < len(pending.jobs):
            return None
        promised = [replace(job, step=_make_promised(job.step)) for job in jobs]
        positions = [job.session.kept + 1 for job in jobs]
        return self._launch(promised, [FROM_LAST_STEP] * len(jobs), positions, None)

    def _launch(
        self,
        jobs: Sequence[Job],
        token_ids: Sequence[int],
        positions: Sequence[int],
        hidden: Tensor | None,
    ) -> PendingStep:
        tables = [job.session.pages for job in jobs for _ in range(job.step.rows)]
        ends = [*accumulate(job.step.rows for job in jobs)]
        first_rows = tuple(end - job.step.rows for end, job in zip(ends, jobs, strict=True))
        out = self._graphs.launch(token_ids, positions, tables, hidden)
        # Rows of token ids cannot be a challenge: they are the model's own embeddings.
        start = self._runner.weights.start
        suspicion = self._guard.suspect(start, out.rows_in) if hidden is not None else None
        if not self._is_last:
            hidden_out = HostCopy(out.hidden)
            return PendingStep(tuple(jobs), first_rows, None, (), {}, hidden_out, suspicion)
        sampled, tokens = _choose(out, first_rows, jobs)
        logits = {
            place: HostCopy(out.logits[first:end].clone())
            for place, (job, first, end) in enumerate(zip(jobs, first_rows, ends, strict=True))
            if job.step.logit_rows or job.step.score_ids
        }
        return PendingStep(tuple(jobs), first_rows, tokens, sampled, logits, None, suspicion)

    @torch.inference_mode()
    def read(self, pending: PendingStep) -> list[StepOutput]:
        """Wait for a step; return its outputs. Raises Refused(CHALLENGE_RELAYED)."""
        if pending.suspicion is not None:
            self._guard.check(pending.suspicion, self._runner.weights.start)
        tokens: dict[int, Token] = {}
        if pending.tokens is not None:
            tokens = dict(zip(pending.sampled, pending.tokens.read(), strict=True))
        if pending.hidden is not None:
            self._buffer.write(pending.hidden.read())
        now = time.perf_counter()
        return [
            self._make_output(pending, place, job, tokens, now)
            for place, job in enumerate(pending.jobs)
            if job is not None
        ]

    def _make_output(
        self,
        pending: PendingStep,
        place: int,
        job: Job,
        tokens: Mapping[int, Token],
        now: float,
    ) -> StepOutput:
        step, first_row, logits = job.step, pending.first_rows[place], pending.logits.get(place)
        offset, wanted = step.wanted_tokens
        chosen = tuple(
            tokens[first_row + offset + row] for row in range(len(wanted)) if self._is_last
        )
        scores: tuple[Token, ...] = ()
        if logits is not None and step.score_ids:
            scores = score_rows(logits.read(), step.score_ids, step.score_top)
        return StepOutput(
            hidden=None if self._is_last else self._buffer.cut(first_row, step.rows),
            sampled=chosen[0] if chosen and step.sample is not None else None,
            scores=scores,
            elapsed_us=int((now - job.handed_over) * 1e6),
            logits=None if logits is None else _cut_last(logits.read(), step.logit_rows),
            window=chosen if step.sample is None else (),
        )


def keep_promised(
    before: PendingStep,
    after: PendingStep,
    outputs: Sequence[StepOutput | Refused],
    following: Sequence[Job | None],
) -> PendingStep:
    """Return the step ``after`` with the jobs that came of the one ``before``, where they are what
    their sessions promised; the rows of the others are thrown away.
    """
    redrawn = frozenset[int]() if before.tokens is None else before.tokens.redrawn
    jobs = [
        job if row not in redrawn and _is_promised(job, output, promised) else None
        for row, (job, output, promised) in enumerate(
            zip(following, outputs, after.jobs, strict=True)
        )
    ]
    return replace(after, jobs=tuple(jobs))


def _choose(
    out: Launched, first_rows: Sequence[int], jobs: Sequence[Job]
) -> tuple[tuple[int, ...], PendingTokens | None]:
    """Return the rows after which a token is wanted, and the tokens."""
    sampled: list[int] = []
    requests: list[SampleRequest] = []
    for job, first_row in zip(jobs, first_rows, strict=True):
        offset, wanted = job.step.wanted_tokens
        sampled.extend(range(first_row + offset, first_row + offset + len(wanted)))
        requests.extend(wanted)
    if not requests:
        return (), None
    best = Best(out.largest, out.token_ids, out.totals)
    if len(sampled) < out.logits.shape[0]:
        return tuple(sampled), PendingTokens(out.logits[sampled], requests, best.select(sampled))
    tokens = PendingTokens(out.logits, requests, best)
    if tokens.token_ids is not out.token_ids:
        out.token_ids.copy_(tokens.token_ids)
    return tuple(sampled), tokens


def _cut_last(logits: Tensor, rows: int) -> Tensor | None:
    return logits[-rows:] if rows else None


def _may_go_on(job: Job) -> bool:
    """Whether the step after a job may start before the job's is read."""
    session, step = job.session, job.step
    length = session.kept + 2
    is_whole = session.is_open and session.kept == session.length and job.restores is None
    has_room = length <= min(session.capacity, len(session.pages) * PAGE_TOKENS)
    return step.goes_on and step.sample is not None and is_whole and has_room


def _make_promised(step: StepInput) -> StepInput:
    if step.sample is None:
        raise ValueError("a step that goes on chooses a token")
    sample = SampleRequest(step.sample.sampling, step.sample.index + 1)
    return StepInput(1, sample=sample, goes_on=True)


def _is_promised(job: Job | None, output: StepOutput | Refused, promised: Job | None) -> bool:
    """Whether a job is the row of the token that was chosen for it, to be sampled as promised."""
    if job is None or promised is None or isinstance(output, Refused) or output.sampled is None:
        return False
    step, expected = job.step, promised.step.sample
    is_plain = job.restores is None and step.hidden is None and not step.logit_rows
    is_row = step.rows == 1 and tuple(step.token_ids or ()) == (output.sampled.token_id,)
    if expected is None or step.sample is None or step.score_ids or not job.session.is_open:
        return False
    is_sampled = (step.sample.sampling, step.sample.index) == (expected.sampling, expected.index)
    is_free = step.sample.sampling.repetition_penalty == 1.0
    return is_plain and is_row and is_sampled and is_free


def _get_tokens(step: StepInput, vocabulary: int) -> Sequence[int]:
    """Return a step's token ids. A wrong one would break the card's whole process."""
    token_ids = step.token_ids or ()
    if len(token_ids) != step.rows:
        raise ValueError("a step has a token id for each row")
    for token_id in token_ids:
        if not 0 <= token_id < vocabulary:
            raise ValueError(f"token {token_id} is not in the vocabulary")
    return token_ids


def _get_hidden(step: StepInput) -> HiddenRows:
    if step.hidden is None:
        raise ValueError("a later range computes hidden states")
    return step.hidden
