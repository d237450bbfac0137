"""The compute thread: how it is prepared, and what runs on it.

mesh/inference/engine.py describes the order of events. What is here runs on the thread, but for
:func:`hand_over`, by which the thread gives a batch back to the event loop, and for the checks of
what it is given.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mesh.inference.batches import BatchRunner, make_failure
from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.decoder import keep_promised
from mesh.inference.engine_limits import EngineLimits
from mesh.inference.measures import ServingMeasures
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.step_threads import StepThreads
from mesh.inference.steps import Job, StepOutput, check_room, fail, resolve
from mesh.model.challenge import (
    ChallengeTask,
    run_challenge_head,
    run_challenge_layer,
    use_exact_float32,
)
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.llama import ShardRunner
from mesh.model.step_graphs import make_step_graphs
from mesh.model.weights import DTYPES, ShardWeights

logger = logging.getLogger(__name__)


def prepare_thread(threads: int) -> None:
    """Set how torch computes on this thread."""
    torch.set_num_threads(threads)
    use_exact_float32()


def open_runner(
    weights: ShardWeights,
    limits: EngineLimits,
    guard: ChallengeGuard,
    *,
    deterministic: bool,
    use_graphs: bool | None,
    hop_dtype: str | None,
) -> BatchRunner:
    """Make the cache, and capture the decode steps where they are wanted."""
    if weights.device.type == "cuda" and weights.device.index is not None:
        # Kernels and events of this thread belong to the card that holds the weights.
        torch.cuda.set_device(weights.device)
    wants_graphs = weights.device.type == "cuda" if use_graphs is None else use_graphs
    runner = ShardRunner(
        weights,
        cache_tokens=limits.cache_tokens,
        deterministic=deterministic,
        has_scratch_page=wants_graphs,
    )
    graphs = None
    if wants_graphs:
        graphs = make_step_graphs(
            runner, max_rows=limits.max_batch_rows, deterministic=deterministic
        )
    return BatchRunner(
        runner,
        guard,
        graphs,
        threads=StepThreads.open(runner),
        deterministic=deterministic,
        hop_dtype=None if hop_dtype is None else DTYPES[hop_dtype],
    )


class BatchLoop:
    """Runs batches, one after the other while nothing else is queued.

    ``is_anything_waiting`` and ``plan`` may be called from any thread; ``plan`` says what of a job
    is computed next.
    """

    def __init__(
        self,
        batches: BatchRunner,
        measures: ServingMeasures,
        *,
        is_anything_waiting: Callable[[], bool],
        plan: Callable[[Job], Job],
    ) -> None:
        self._batches = batches
        self._measures = measures
        self._is_anything_waiting = is_anything_waiting
        self._plan = plan

    def run(
        self,
        batch: Sequence[Job],
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[list[Job]],
    ) -> None:
        """Run a batch, and continue it while nothing else is queued."""
        pending = self._batches.start(batch)
        put_off: list[Job] = []
        while True:
            ahead = None
            if pending is not None and not (put_off or self._is_anything_waiting()):
                ahead = self._batches.start_next(pending)
            ran = self._batches.read(pending)
            if ran is None:
                # A step ahead began with what this one had given, which is written again.
                ran, ahead = self._batches.run(batch), None
            self._measure(batch, ran)
            computed = zip(batch, ran, strict=True)
            outputs, following = zip(*(self._follow(*each) for each in computed), strict=True)
            if pending is not None and ahead is not None:
                pending = keep_promised(pending, ahead, outputs, following)
                going_on = [job for job in pending.jobs if job is not None]
                if going_on:
                    # What is under way goes on; the others need not wait for it.
                    left = [place for place, job in enumerate(pending.jobs) if job is None]
                    put_off += [job for i in left if (job := following[i]) is not None]
                    if left:
                        told = [(batch[i], outputs[i], following[i]) for i in left]
                        loop.call_soon_threadsafe(_answer, told)
                    batch = going_on
                    continue
            going_on = [job for job in following if job is not None and job.session.is_open]
            if len(going_on) < len(batch) or put_off or self._is_anything_waiting():
                break
            if not _can_go_on(going_on):
                break
            batch = going_on
            pending = self._batches.start(batch)
        loop.call_soon_threadsafe(hand_over, batch, outputs, following, put_off, done)

    def run_challenge(self, task: ChallengeTask) -> NDArray[np.float32]:
        """Compute a challenged layer's answer."""
        self._batches.threads.use_all()
        return run_challenge(self._batches.runner.weights, task)

    def _measure(self, batch: Sequence[Job], ran: Sequence[StepOutput | Refused]) -> None:
        """Count what was computed."""
        for job, output in zip(batch, ran, strict=True):
            if isinstance(output, StepOutput):
                step = job.step
                self._measures.note_step(step.rows, output.elapsed_us, is_decode=step.is_decode)

    def _follow(
        self, job: Job, output: StepOutput | Refused
    ) -> tuple[StepOutput | Refused, Job | None]:
        """Count a computed step; return its output, and the job that follows it."""
        if isinstance(output, Refused):
            return output, None
        if job.restores is not None:
            job.session.kept += job.step.rows
            return output, self._plan(job)
        job.session.count(job.step)
        try:
            step = None if job.step.follow is None else job.step.follow(output)
            if step is None:
                return output, None
            check_room(job.session, step)
        except Exception:
            logger.exception("what follows a step failed")
            return make_failure(), None
        return output, replace(job, step=step, handed_over=time.perf_counter())


def _can_go_on(jobs: Sequence[Job]) -> bool:
    """Whether jobs may run as the next batch: there are pages, and prompts are not mixed."""
    is_batch = len(jobs) == 1 or all(job.step.is_decode for job in jobs)
    return is_batch and all(job.session.has_room(job.step.rows) for job in jobs)


def hand_over(
    batch: Sequence[Job],
    outputs: Sequence[StepOutput | Refused],
    following: Sequence[Job | None],
    put_off: Sequence[Job],
    done: asyncio.Future[list[Job]],
) -> None:
    """On the event loop: answer the sessions that wait, pass on the steps that follow."""
    _answer([*zip(batch, outputs, following, strict=True)])
    resolve(done, [*put_off, *(job for job in following if job is not None)])


def _answer(computed: Sequence[tuple[Job, StepOutput | Refused, Job | None]]) -> None:
    """On the event loop: tell the sessions whose last step was computed."""
    for job, output, next_job in computed:
        if isinstance(output, Refused):
            fail(job.future, output)
        elif next_job is None:
            resolve(job.future, output)


@dataclass(frozen=True, slots=True)
class ChallengeJob:
    """A layer that is challenged, and who waits for the answer."""

    task: ChallengeTask
    future: asyncio.Future[NDArray[np.float32]]


def check_challenge(task: ChallengeTask, config: ModelConfig, layers: LayerSpan) -> None:
    """Raise Refused unless the ``layers`` that are served have an answer to a task."""
    is_head = task.layer == config.num_layers == layers.end
    if not is_head and task.layer not in layers:
        raise Refused(RefusalReason.WRONG_RANGE, f"block {task.layer} is not served here")
    if task.hidden.ndim != 2 or task.hidden.shape[1] != config.hidden_size:
        raise Refused(RefusalReason.WRONG_SHAPE, f"hidden has shape {task.hidden.shape}")
    if is_head != (task.head_rows is not None):
        raise Refused(RefusalReason.WRONG_SHAPE, "head rows belong to the head and only there")


@torch.inference_mode()
def run_challenge(weights: ShardWeights, task: ChallengeTask) -> NDArray[np.float32]:
    """Compute a challenged layer's answer."""
    hidden = torch.from_numpy(np.array(task.hidden, dtype=np.float32))
    if task.head_rows is not None:
        rows = torch.from_numpy(np.array(task.head_rows, dtype=np.int64))
        vector = run_challenge_head(weights, hidden, rows)
    else:
        token_ids = None
        if task.token_ids is not None:
            token_ids = torch.from_numpy(np.array(task.token_ids, dtype=np.int64))
        vector = run_challenge_layer(weights, task.layer, hidden, token_ids=token_ids)
    found: NDArray[np.float32] = vector.cpu().numpy()
    return found
