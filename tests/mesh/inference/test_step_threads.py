"""Prompts and challenges take all threads; decode steps take as many as are chosen."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
import torch

from mesh.inference import batches, compute_thread, step_threads
from mesh.inference.sampling import Sampling
from mesh.inference.step_threads import StepThreads
from mesh.inference.thread_choice import ThreadChoice
from tests.mesh.inference.test_engine import Serving, Task, answer, loader

PROMPT = list(range(5, 25))


class Turns(ThreadChoice):
    """Changes the number with every step."""

    def __init__(self, most):
        super().__init__(most)
        self.rows = []

    def choose(self, rows):
        self.rows.append(rows)
        return 1 + len(self.rows) % 2

    def note(self, rows, elapsed_s):
        assert rows == self.rows[-1] and elapsed_s > 0


@pytest.fixture
def seen(monkeypatch):
    """Note the threads of each batch and challenge by what it is."""
    found = []
    run_batch, run_challenge = batches.run_batch, compute_thread.run_challenge

    def note_batch(runner, buffer, batch, **options):
        kind = "decode" if batch[0].step.is_decode else "prompt"
        found.append((kind, torch.get_num_threads()))
        return run_batch(runner, buffer, batch, **options)

    def note_challenge(*arguments):
        found.append(("challenge", torch.get_num_threads()))
        return run_challenge(*arguments)

    monkeypatch.setattr(batches, "run_batch", note_batch)
    monkeypatch.setattr(compute_thread, "run_challenge", note_challenge)
    return found


async def run(folder, threads, dtype, *, count=12):
    async with Serving(loader(folder, dtype=dtype), threads=threads) as engine:
        tokens = await answer(engine, PROMPT, Sampling(temperature=0.7, seed=5), count)
        hidden = torch.randn(4, engine.config.hidden_size).numpy()
        await engine.run_tasks([Task(1, hidden)])
        return tokens


async def test_an_answer_whose_threads_change_with_every_token_is_the_same(
    make_checkpoint, monkeypatch, seen
):
    folder = make_checkpoint(dtype="bfloat16")
    expected = await run(folder, 1, "bfloat16")
    seen.clear()
    monkeypatch.setattr(step_threads, "ThreadChoice", Turns)
    monkeypatch.setattr(step_threads.ShardRunner, "keeps_bits", lambda *_: True)
    assert await run(folder, 2, "bfloat16") == expected
    assert [n for kind, n in seen if kind == "decode"] == [2, 1] * 5 + [2]
    assert {n for kind, n in seen if kind != "decode"} == {2}
    assert {kind for kind, _ in seen} == {"prompt", "decode", "challenge"}


async def test_threads_stay_where_another_number_gives_other_bits(
    make_checkpoint, monkeypatch, seen
):
    monkeypatch.setattr(step_threads.ShardRunner, "keeps_bits", lambda *_: False)
    await run(make_checkpoint(dtype="bfloat16"), 2, "bfloat16")
    assert {n for _, n in seen} == {2}


async def test_a_step_that_fails_tells_nothing_about_its_threads():
    choice = ThreadChoice(2)
    threads = await asyncio.to_thread(StepThreads, 2, choice)

    def fail():
        with threads.use_fastest(1):
            raise RuntimeError

    for _ in range(20):
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(fail)
    assert choice.threads == 2


SCRIPT = """
import asyncio, os, sys, threading, time
from pathlib import Path
from mesh.inference.threads import wait_briefly
wait_briefly()
import torch
from mesh.inference.engine import Engine
from mesh.inference.step_threads import StepThreads
from mesh.model.abandon import run_abandonable
from mesh.model.bfloat16_packed import has_kernels
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.weights import load_shard

async def main():
    folder = Path(sys.argv[1])
    config, located = load_config(folder), resolve_model_folder(str(folder))
    has_kernels()  # A hoster asks when it counts the layers that fit.
    load = lambda check: load_shard(located, config, start=0, end=6, dtype="bfloat16")
    weights = await run_abandonable(load)
    async with Engine.open(lambda: weights, threads=3) as engine, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(engine.serve())
        await engine.measure_throughput()
        end_s = time.monotonic() + 10
        while (helpers := count_helpers()) != 2 and time.monotonic() < end_s:
            await asyncio.sleep(0.05)
        print(helpers)
        serving.cancel()

def count_helpers():
    known = {str(thread.native_id) for thread in threading.enumerate()}
    return len(set(os.listdir("/proc/self/task")) - known) - IDLE

# A choice of fewer, as on a busy machine, would end some.
StepThreads.open = lambda runner: StepThreads(3, None)
IDLE = 0
torch.set_num_threads(3)  # It makes threads of torch's own.
IDLE = count_helpers()
asyncio.run(main())
"""


def test_only_the_compute_thread_keeps_openmps_threads(make_checkpoint):
    """With more of them than cores, none would look for the next kernel before it sleeps."""
    wide = make_checkpoint(dtype="bfloat16", hidden_size=768, intermediate_size=1024, head_dim=128)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(wide)], capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["2"], ran.stdout + ran.stderr
