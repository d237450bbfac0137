"""The contestants of cpu_peers.py: processes that answer prompts, a line of JSON each way.

python -m benchmarks.cpu_worker FOLDER THREADS KIND    KIND: none, int4, fixed or transformers

``fixed`` is none with all threads in each step.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LLAMA = ROOT / "benchmarks" / "llama"
INSTALL = "cd benchmarks/llama && npm ci --omit=optional --ignore-scripts"
END_TIMEOUT_S = 20.0
CACHE_TOKENS = 512


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and the seconds to the first and to the last one."""

    first_s: float
    total_s: float
    tokens: list[int]


class Contestant:
    """A process that holds a model."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self._name} ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def answer(self, prompt: list[int], new: int) -> Answer:
        self.ask(prompt, new)
        return self.finish(new)

    def ask(self, prompt: list[int], new: int) -> None:
        """Begin an answer, which :meth:`finish` waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "new": new}) + "\n")
        self._process.stdin.flush()

    def finish(self, new: int) -> Answer:
        answer = Answer(**self.read())
        if len(answer.tokens) != new:
            raise SystemExit(f"error: {self._name} made {len(answer.tokens)} of {new} tokens")
        return answer


@contextmanager
def _start(
    name: str, line: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[Contestant]:
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        contestant = Contestant(name, process)
        contestant.read()
        yield contestant
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def start_llama(gguf: Path, threads: int):
    """Start llama.cpp. Raises SystemExit if it is not installed."""
    if not (LLAMA / "node_modules").is_dir():
        raise SystemExit(f"error: llama.cpp is not installed\nhint: {INSTALL}")
    return _start(
        f"llama.cpp with {gguf.name}", ["node", str(LLAMA / "serve.mjs"), str(gguf), str(threads)]
    )


def start_python(
    folder: Path, threads: int, kind: str, environment: Mapping[str, str] | None = None
):
    """Start the engine with a quant type, or transformers."""
    line = [sys.executable, "-m", "benchmarks.cpu_worker", str(folder), str(threads), kind]
    return _start(f"{kind} with {folder.name}", line, environment)


def _serve_line(line: str, answer: Callable[[list[int], int], Answer]) -> None:
    request = json.loads(line)
    found = answer(request["prompt"], request["new"])
    _say({"first_s": found.first_s, "total_s": found.total_s, "tokens": found.tokens})


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


async def _serve_engine(folder: Path, threads: int, quant_type: str) -> None:
    from mesh.inference.engine import Engine, EngineLimits
    from mesh.inference.step_threads import StepThreads
    from mesh.model.config import load_config
    from mesh.model.files import resolve_model_folder
    from mesh.model.weights import load_shard

    config, located = load_config(folder), resolve_model_folder(str(folder))
    if quant_type == "fixed":
        quant_type = "none"
        StepThreads.open = lambda runner: StepThreads(threads, None)  # type: ignore[method-assign]

    def load() -> Any:
        return load_shard(
            located,
            config,
            start=0,
            end=config.num_layers,
            dtype="bfloat16",
            quant_type=quant_type,
        )

    limits = EngineLimits(cache_tokens=CACHE_TOKENS)
    async with (
        Engine.open(load, limits=limits, threads=threads) as engine,
        asyncio.TaskGroup() as tasks,
    ):
        serving = tasks.create_task(engine.serve())
        _say({"ready": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            _say(await _answer_engine(engine, request["prompt"], request["new"]))
        serving.cancel()


async def _answer_engine(engine: Any, prompt: list[int], new: int) -> dict[str, Any]:
    from mesh.inference.accounts import Account
    from mesh.inference.engine import StepInput
    from mesh.inference.sampler import SampleRequest
    from mesh.inference.sampling import Sampling

    greedy, tokens, first = Sampling(), [], 0.0
    started = time.perf_counter()
    with engine.admit(engine.layers, capacity=len(prompt) + new, account=Account(None)) as session:
        step = StepInput(len(prompt), token_ids=prompt, sample=SampleRequest(greedy, 0))
        while True:
            output = await engine.submit(session, step)
            tokens.append(output.sampled.token_id)
            first = first or time.perf_counter()
            if len(tokens) == new:
                break
            sample = SampleRequest(greedy, len(tokens))
            step = StepInput(1, token_ids=tokens[-1:], sample=sample)
    ended = time.perf_counter()
    return {"first_s": first - started, "total_s": ended - started, "tokens": tokens}


def _serve_transformers(folder: Path, threads: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        ids, new, clock = torch.tensor([request["prompt"]]), request["new"], Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                streamer=clock,
            )
        ended = time.perf_counter()
        # The prompt comes first.
        first_s = clock.times[1] - started
        tokens = found[0, ids.shape[1] :].tolist()
        _say({"first_s": first_s, "total_s": ended - started, "tokens": tokens})


def main() -> None:
    folder, threads, kind = sys.argv[1:]
    if kind == "transformers":
        _serve_transformers(Path(folder), int(threads))
    else:
        asyncio.run(_serve_engine(Path(folder), int(threads), kind))


if __name__ == "__main__":
    from mesh.inference.threads import wait_briefly

    # Before torch is imported. transformers' threads wait as the engine's do.
    wait_briefly()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main()
