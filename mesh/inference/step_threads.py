"""The number of torch's threads on the compute thread, step by step."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mesh.inference.thread_choice import ThreadChoice, list_candidates
from mesh.model.llama import ShardRunner

logger = logging.getLogger(__name__)


class StepThreads:
    """All threads for prompts and challenges, and for decode steps as many as are fastest.

    Without a ``choice`` decode steps take all as well. What is chosen by a clock must not change an
    answer, so there is one only where a trial showed equal bits. Used on the compute thread.
    """

    def __init__(self, most: int, choice: ThreadChoice | None) -> None:
        self._most = most
        self._choice = choice
        self._set = torch.get_num_threads()

    @classmethod
    def open(cls, runner: ShardRunner) -> StepThreads:
        """Try on the compute thread whether its number of threads may change."""
        most = torch.get_num_threads()
        if most == 1 or runner.weights.device.type != "cpu":
            return cls(most, None)
        if runner.keeps_bits(list_candidates(most)):
            return cls(most, ThreadChoice(most))
        logger.info(
            "all %d threads compute every step, since fewer would give other bits; where other "
            "programs use the cores, --threads 1 is faster",
            most,
        )
        return cls(most, None)

    def use_all(self) -> None:
        self._use(self._most)

    @contextmanager
    def use_fastest(self, rows: int) -> Iterator[None]:
        """Compute a decode step of so many rows in the block. One that fails tells nothing."""
        if self._choice is None:
            yield
            return
        before = self._choice.threads
        self._use(self._choice.choose(rows))
        started_s = time.perf_counter()
        yield
        self._choice.note(rows, time.perf_counter() - started_s)
        if self._choice.threads != before:
            logger.debug("decode steps are computed by %d threads", self._choice.threads)

    def _use(self, threads: int) -> None:
        if threads != self._set:
            torch.set_num_threads(threads)
            self._set = threads
