"""Breaks one rule at a time in a copy of the sources, and runs the killers on it, stage by stage.

The copy stands first on the path of every process that runs there, so neither the sources here nor
an installed package is what is tested. A stage that does not end in time kills, too: its limit is
a multiple of what the unbroken copy took.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SURVIVED = "SURVIVED"
MIN_LIMIT_S = 60.0
LIMIT_FACTOR = 6.0
KEPT_OUTPUT = 2000


class BadList(Exception):
    """The list of mutations does not fit the sources. The message says which one, and why."""


class BadBaseline(Exception):
    """A stage fails on the sources as they are, so it can kill nothing."""


@dataclass(frozen=True)
class Mutation:
    """One rule broken: ``old`` stands exactly once in ``file``, and ``new`` takes its place."""

    name: str
    file: str
    old: str
    new: str
    breaks: str


@dataclass(frozen=True)
class Stage:
    """One killer: arguments of Python, run in the copy; exit status 0 if it notices nothing."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Which stage noticed a mutation, and how it said so."""

    mutation: Mutation
    killed_by: str
    seconds: float
    said: str = field(default="", repr=False)

    @property
    def has_survived(self) -> bool:
        return self.killed_by == SURVIVED


@dataclass(frozen=True)
class Harness:
    """What is copied, and what is run. ``sources`` are folders and files below ``root``."""

    root: Path
    sources: tuple[str, ...]
    stages: tuple[Stage, ...]

    def check_list(self, mutations: Sequence[Mutation]) -> None:
        """Raise BadList unless each mutation fits the sources and has a name of its own."""
        names = [mutation.name for mutation in mutations]
        for name in names:
            if names.count(name) > 1:
                raise BadList(f"two mutations are called {name!r}")
        for mutation in mutations:
            path = self.root / mutation.file
            count = path.read_text(encoding="utf-8").count(mutation.old) if path.is_file() else 0
            if count != 1 or mutation.old == mutation.new:
                raise BadList(
                    f"{mutation.name!r}: its old text stands {count} times in {mutation.file}; "
                    "bring the list up to date"
                )

    def run(self, mutations: Sequence[Mutation], *, parallel: int = 1) -> Iterator[Verdict]:
        """Yield a verdict for each mutation, in order. Raises BadList or BadBaseline."""
        self.check_list(mutations)
        limits = self.measure()
        with ThreadPoolExecutor(parallel) as pool:
            yield from pool.map(lambda mutation: self._judge(mutation, limits), mutations)

    def measure(self) -> Mapping[str, float]:
        """Return how long each stage may take. Raises BadBaseline."""
        limits = {}
        with self._copy() as copy:
            for stage in self.stages:
                started_s = time.monotonic()
                code, said = run_stage(stage, copy, timeout_s=None)
                if code:
                    raise BadBaseline(f"{stage.name} fails on unbroken sources:\n{said}")
                taken_s = time.monotonic() - started_s
                limits[stage.name] = max(MIN_LIMIT_S, LIMIT_FACTOR * taken_s)
        return limits

    def _judge(self, mutation: Mutation, limits: Mapping[str, float]) -> Verdict:
        started_s = time.monotonic()
        killed_by, said = SURVIVED, ""
        with self._copy() as copy:
            path = copy / mutation.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
            for stage in self.stages:
                code, said = run_stage(stage, copy, timeout_s=limits[stage.name])
                if code:
                    killed_by = stage.name
                    break
        return Verdict(mutation, killed_by, time.monotonic() - started_s, said)

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="mesh-mutation-") as folder:
            copy = Path(folder)
            for name in self.sources:
                source = self.root / name
                if source.is_dir():
                    # With what is compiled: only the broken file is compiled again.
                    shutil.copytree(source, copy / name, ignore=_ignore_modules_of_node)
                else:
                    shutil.copy2(source, copy / name)
            yield copy


def run_stage(stage: Stage, copy: Path, *, timeout_s: float | None) -> tuple[int, str]:
    """Run one stage in a copy; return its exit status and its last words. 1 if it takes longer."""
    process = subprocess.Popen(
        [sys.executable, *stage.command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    with process:
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return 1, f"no end within {timeout_s:.0f} s"
        finally:
            # What it started ends with it.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said[-KEPT_OUTPUT:]


def describe(verdicts: Iterable[Verdict]) -> str:
    """Return the table: what was broken, and which stage noticed."""
    rows = [(v.mutation.name, v.mutation.file, v.killed_by) for v in verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(2)] if rows else [0, 0]
    return "\n".join(
        f"{name:{widths[0]}}  {file:{widths[1]}}  {killed_by}" for name, file, killed_by in rows
    )


def _ignore_modules_of_node(_folder: str, names: list[str]) -> set[str]:
    return {"node_modules"} & set(names)
