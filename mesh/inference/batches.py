"""A batch on the compute thread: rows side by side through the layers, then tokens.

mesh/inference/engine.py describes what fails where.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.decoder import Decoder, PendingStep
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.sampler import SampleRequest, sample_rows, score_rows
from mesh.inference.step_threads import StepThreads
from mesh.inference.steps import Job, StepInput, StepOutput
from mesh.inference.tensors import HiddenBuffer
from mesh.inference.tokens import Token
from mesh.inference.wire import HiddenRows, compute_max_step_rows
from mesh.model.attention import Segment
from mesh.model.llama import ShardRunner
from mesh.model.step_graphs import StepGraphs

logger = logging.getLogger(__name__)


class BatchRunner:
    """Computes batches on the compute thread; decode steps go through ``graphs`` if there are."""

    def __init__(
        self,
        runner: ShardRunner,
        guard: ChallengeGuard,
        graphs: StepGraphs | None = None,
        *,
        threads: StepThreads | None = None,
        deterministic: bool = False,
        hop_dtype: torch.dtype | None = None,
    ) -> None:
        """``threads`` are those of the calling thread, None: all for every step. ``hop_dtype`` is
        the type of hidden states that leave; None: the compute type.
        """
        weights = runner.weights
        self.runner = runner
        self.threads = threads or StepThreads(torch.get_num_threads(), None)
        self._guard = guard
        self._buffer = HiddenBuffer(weights.config.hidden_size, weights.dtype, sent=hop_dtype)
        self.has_graphs = graphs is not None
        self._decoder = None
        if graphs is not None:
            self._decoder = Decoder(runner, graphs, self._buffer, guard)
        # Padded attention and a GPU's products of several rows are not the same for any batch.
        self._one_by_one = deterministic and weights.device.type != "cpu"

    @property
    def max_step_rows(self) -> int:
        """How many rows of hidden states fit into one frame to the next range."""
        return compute_max_step_rows(self._buffer.sent_row_size)

    def start(self, batch: Sequence[Job]) -> PendingStep | None:
        """Start a batch without waiting for it; None where only :meth:`run` computes it."""
        if self._decoder is None or not self._decoder.takes(batch):
            return None
        try:
            return self._decoder.start(batch)
        except Exception:
            # It is run then, and what fails there is told there.
            logger.info("a step could not be started", exc_info=True)
            return None

    def start_next(self, pending: PendingStep) -> PendingStep | None:
        """Start the step that follows a pending one; None if it is not known yet."""
        if self._decoder is None:
            return None
        try:
            return self._decoder.start_next(pending)
        except Exception:
            logger.info("a step could not be started ahead", exc_info=True)
            return None

    def read(self, pending: PendingStep | None) -> list[StepOutput | Refused] | None:
        """Return the outputs of a batch that was started; None if it must be run."""
        if self._decoder is None or pending is None:
            return None
        try:
            return [*self._decoder.read(pending)]
        except Exception:
            logger.info("a step that was started failed", exc_info=True)
            return None

    def run(self, batch: Sequence[Job]) -> list[StepOutput | Refused]:
        """Run a batch, or if that fails each step alone; Refused is a step that is not computed.

        What peers ask for must end neither the node nor the others' sessions; a broken engine ends
        the node by itself, at the next challenge, which is our own.
        """
        try:
            return [*self._compute(batch)]
        except Refused as refused:
            failure = refused
        except Exception as error:
            logger.exception("a batch of %d failed", len(batch))
            failure = make_failure()
            if is_out_of_memory(error):
                failure = Refused(RefusalReason.BUSY, "not enough memory for the step")
                return self._run_without_youngest(batch, failure)
        if len(batch) == 1:
            logger.info("a step is refused: %s", failure)
            return [failure]
        return [out for job in batch for out in self.run([job])]

    def _compute(self, batch: Sequence[Job]) -> list[StepOutput]:
        if self._decoder is not None and self._decoder.takes(batch):
            return self._decoder.read(self._decoder.start(batch))
        if self._one_by_one:
            return [self._compute_apart(job) for job in batch]
        if all(job.step.is_decode for job in batch):
            with self.threads.use_fastest(sum(job.step.rows for job in batch)):
                return run_batch(self.runner, self._buffer, batch, guard=self._guard)
        self.threads.use_all()
        return run_batch(self.runner, self._buffer, batch, guard=self._guard)

    def _compute_apart(self, job: Job) -> StepOutput:
        """Compute a step by itself, and each row of a window by itself."""
        jobs = [job]
        if job.step.window is not None and job.step.rows > 1:
            steps, session = job.step.split_window(), job.session
            jobs = [
                replace(job, step=step, session=replace(session, kept=session.kept + row))
                for row, step in enumerate(steps)
            ]
        outputs = [
            output
            for one in jobs
            for output in run_batch(self.runner, self._buffer, [one], guard=self._guard)
        ]
        return outputs[0] if len(outputs) == 1 else _join_rows(outputs)

    def _run_without_youngest(
        self, batch: Sequence[Job], failure: Refused
    ) -> list[StepOutput | Refused]:
        """Run the others of a batch; ``failure`` is what its youngest session gets."""
        youngest = max(batch, key=lambda job: job.session.serial)
        others = [job for job in batch if job is not youngest]
        ran = iter(self.run(others) if others else ())
        return [failure if job is youngest else next(ran) for job in batch]


def _join_rows(outputs: Sequence[StepOutput]) -> StepOutput:
    """Return the output of a window from those of its rows."""
    rows = [output.hidden for output in outputs if output.hidden is not None]
    hidden = None
    if rows:
        data = b"".join(bytes(row.data) for row in rows)
        hidden = HiddenRows(len(rows), rows[0].dtype, data)
    window = tuple(token for output in outputs for token in output.window)
    return replace(outputs[-1], hidden=hidden, window=window)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python had no memory; on the CPU, torch says so in words only."""
    is_typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_typed or "can't allocate memory" in str(error)


def make_failure() -> Refused:
    return Refused(RefusalReason.FAILED, "the step could not be computed")


@torch.inference_mode()
def run_batch(
    runner: ShardRunner, buffer: HiddenBuffer, batch: Sequence[Job], *, guard: ChallengeGuard
) -> list[StepOutput]:
    """One step on the compute thread: rows side by side through the layers, then tokens.

    Raises Refused(CHALLENGE_RELAYED), before anything leaves, if one of the steps relays.
    """
    segments, first_row = [], 0
    for job in batch:
        session = job.session
        segments.append(Segment(first_row, job.step.rows, session.pages, session.kept))
        first_row += job.step.rows
    pieces = [piece for each in zip(batch, segments, strict=True) for piece in _split(*each)]
    x = _read_rows(runner, buffer, [job.step for job in batch])
    span = batch[0].session.span
    # Rows of token ids cannot be a challenge: they are the model's own embeddings.
    suspicion = guard.suspect(span.start, x) if batch[0].step.hidden is not None else None
    hidden = runner.forward(x, pieces, start=span.start, end=span.end)
    sampled = _sample(runner, hidden, batch, segments)
    logits = _compute_wanted_logits(runner, hidden, batch, segments)
    is_last = span.end == runner.weights.config.num_layers
    if not is_last:
        buffer.write(hidden)
    # Asked after the layers: a GPU would have to wait for the answer before it goes on.
    if suspicion is not None:
        guard.check(suspicion, span.start)
    scores = [
        _score(runner, hidden[segment.first_row : segment.first_row + segment.rows], job.step)
        for job, segment in zip(batch, segments, strict=True)
    ]
    now = time.perf_counter()
    return [
        StepOutput(
            hidden=None if is_last else buffer.cut(segment.first_row, segment.rows),
            sampled=sampled[place][0] if job.step.sample is not None else None,
            scores=scores[place],
            elapsed_us=int((now - job.handed_over) * 1e6),
            logits=logits.get(place),
            window=sampled[place] if job.step.window else (),
        )
        for place, (job, segment) in enumerate(zip(batch, segments, strict=True))
    ]


def _read_rows(runner: ShardRunner, buffer: HiddenBuffer, steps: Sequence[StepInput]) -> Tensor:
    """Return the rows of a batch; its sessions have the same span, so all stand at one layer."""
    pieces = [step.hidden for step in steps if step.hidden is not None]
    if len(pieces) == len(steps):
        return buffer.read(pieces).to(runner.weights.device)
    token_ids = [token_id for step in steps for token_id in step.token_ids or ()]
    if len(token_ids) != sum(step.rows for step in steps):
        raise ValueError("a step has token ids or hidden states")
    return runner.embed(token_ids)


def _split(job: Job, segment: Segment) -> list[Segment]:
    """Return the parts that attention computes: each row of a window is a decode row by itself.

    The rows' keys and values are stored before any row attends, so each sees those before it.
    """
    if job.step.window is None or segment.rows == 1:
        return [segment]
    return [
        Segment(segment.first_row + row, 1, segment.pages, segment.position + row)
        for row in range(segment.rows)
    ]


def _sample(
    runner: ShardRunner, hidden: Tensor, batch: Sequence[Job], segments: Sequence[Segment]
) -> dict[int, tuple[Token, ...]]:
    """Return the tokens that were asked for, by their step's place in the batch."""
    rows: list[int] = []
    requests: list[SampleRequest] = []
    counts: dict[int, int] = {}
    for place, (job, segment) in enumerate(zip(batch, segments, strict=True)):
        offset, wanted = job.step.wanted_tokens
        first = segment.first_row + offset
        if wanted:
            rows.extend(range(first, first + len(wanted)))
            requests.extend(wanted)
            counts[place] = len(wanted)
    if not requests:
        return {}
    chosen_rows = hidden if len(rows) == hidden.shape[0] else hidden[rows]
    chosen = iter(sample_rows(runner.compute_logits(chosen_rows), requests))
    return {place: tuple(islice(chosen, count)) for place, count in counts.items()}


def _compute_wanted_logits(
    runner: ShardRunner, hidden: Tensor, batch: Sequence[Job], segments: Sequence[Segment]
) -> dict[int, Tensor]:
    """Return the logits, or last hidden states, that were asked for, by place in the batch."""
    found: dict[int, Tensor] = {}
    for wants_hidden, compute in ((False, runner.compute_logits), (True, runner.norm_last)):
        wanted = {
            i: job.step.logit_rows
            for i, job in enumerate(batch)
            if job.step.logit_rows and job.step.wants_hidden is wants_hidden
        }
        if not wanted:
            continue
        stops = {i: segments[i].first_row + segments[i].rows for i in wanted}
        rows = [row for i, count in wanted.items() for row in range(stops[i] - count, stops[i])]
        values = compute(hidden[rows]).cpu()
        ends = itertools.accumulate(wanted.values())
        found |= {i: values[end - wanted[i] : end] for i, end in zip(wanted, ends, strict=True)}
    return found


def _score(runner: ShardRunner, hidden: Tensor, step: StepInput) -> tuple[Token, ...]:
    """Return the scores that were asked for; several rows at once belong to one prompt."""
    if not step.score_ids:
        return ()
    return score_rows(
        runner.compute_logits(hidden, are_decodes=False), step.score_ids, step.score_top
    )
