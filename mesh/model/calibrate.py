"""Measures a model's challenges: the scale of each layer, honest spread, and cheats.

For every layer and the head, over a few challenges and on full vectors:

- *honest variants* compute the same in other ways: one thread and two, beside other rows, by the
  fused attention kernel, on a GPU where there is one, and, in processes of their own, with
  narrower instruction sets. The spread is the largest distance between any two of them.
- *cheats* are int8 and int4 weights, bfloat16 arithmetic, and a layer that is left out: answered
  with zeros, or by the layer before it. Each one's figure is the smallest distance.

Distances are relative to what the layer adds. One layer is in memory at a time.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mesh.errors import CalibrationFailed
from mesh.model.abandon import CheckWanted, always_wanted
from mesh.model.attention import attend_grouped
from mesh.model.auditor import Auditor
from mesh.model.challenge import (
    ChallengeTask,
    compute_last_addition,
    compute_last_logits,
    use_exact_float32,
)
from mesh.model.config import ModelConfig, load_config
from mesh.model.files import ModelFolder, resolve_model_folder
from mesh.model.margins import DISTANCE_ONE, MAX_DISTANCE, MAX_SCALE, Calibration, name_layer
from mesh.model.quantise import quantise
from mesh.model.tensors import list_range_tensors, locate_tensors
from mesh.model.weights import LayerWeights
from mesh.progress import track

Vector = NDArray[np.float32]

UNIT_BITS = 22
"""One unit of a quantised answer stays below 2**-22 of its RMS."""
SPARE_BITS = 1
"""Room of that many bits for challenges whose answers are smaller, or larger, than all measured."""
BATCH_COPIES = 3
INT4_LARGEST = 7
INT4_GROUP = 32
RUN_TIMEOUT_S = 3600.0
INSTRUCTION_SETS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "sse4": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}
"""Environments in which torch's libraries keep to narrower instructions, on x86-64."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """One challenge of one layer. Satisfies ChallengeTask."""

    layer: int
    hidden: NDArray[np.float32]
    token_ids: NDArray[np.int64] | None = None
    head_rows: NDArray[np.int64] | None = None


def calibrate(
    folder: ModelFolder,
    config: ModelConfig,
    tasks: Sequence[Sequence[ChallengeTask]],
    *,
    fixed_point_bits: int,
    value_bound_bits: int,
    quant_type: str = "none",
    check_wanted: CheckWanted = always_wanted,
) -> Calibration:
    """Measure every challenged layer. ``tasks`` has one list for each challenge, by layer.

    Raises ModelError or CalibrationFailed, and Abandoned between two layers.
    """
    # An auditor downloads nothing, and only config.json may be here so far.
    locate_tensors(folder, config, list_range_tensors(config, 0, config.num_layers))
    auditor = Auditor(folder, config, quant_type=quant_type)
    gpu = _open_gpu(folder, config, quant_type)
    layers: list[list[_Row]] = []
    scales = []
    before: LayerWeights | None = None
    with ExitStack() as stack, torch.inference_mode():
        runs = _start_processes(stack, folder, quant_type, tasks)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        use_exact_float32()
        step = stack.enter_context(
            # The head counts as a layer; the processes answer for all of them at once.
            track("calibrating", total=config.num_layers + 1 + len(runs), unit="layers")
        )
        for layer in range(config.num_layers + 1):
            check_wanted()
            bench = _Bench(auditor, config, layer)
            rows = [_measure(bench, challenge[layer], before) for challenge in tasks]
            for challenge, row in zip(tasks, rows, strict=True):
                if gpu is not None:
                    row.honest["gpu"] = gpu.answer(challenge[layer])
            where = name_layer(layer, config.num_layers)
            answers = [row.reference for row in rows]
            scales.append(choose_scale(answers, where, fixed_point_bits, value_bound_bits))
            before = bench.layer_weights
            layers.append(rows)
            step(1)
        for name, run in runs.items():
            check_wanted()
            answered = run.collect()
            for layer, rows in enumerate(layers):
                for place, row in enumerate(rows):
                    row.honest[name] = answered[place * len(layers) + layer]
            step(1)
    found = [_smallest_of_each([row.measure_cheats() for row in rows]) for rows in layers]
    return Calibration(
        scales=tuple(scales),
        honest=tuple(_as_integer(max(row.measure_spread() for row in rows)) for rows in layers),
        cheats={
            name: tuple(_as_integer(distances[name]) for distances in found)
            for name in found[0]
            # What a subnet serves is no cheat there.
            if name != quant_type
        },
        variants=tuple(layers[0][0].honest),
    )


def _open_gpu(folder: ModelFolder, config: ModelConfig, quant_type: str) -> Auditor | None:
    if not torch.cuda.is_available():
        return None
    return Auditor(folder, config, device="cuda", quant_type=quant_type)


def choose_scale(
    answers: Sequence[Vector], where: str, fixed_point_bits: int, value_bound_bits: int
) -> int:
    """Return the exponent of the power of two by which answers of one layer are scaled.

    One unit then is below 2**-22 of the smallest answer's RMS, and no value passes the bound;
    a bit of room on either side, as far as there is some. Raises CalibrationFailed.
    """
    rms = min(float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))) for a in answers)
    peak = max(float(np.abs(answer).max()) for answer in answers)
    if not math.isfinite(peak) or rms == 0:
        raise CalibrationFailed(f"{where} adds nothing, or nothing finite, to its input")
    least = math.ceil(UNIT_BITS - fixed_point_bits - math.log2(rms))
    most = math.floor(value_bound_bits - SPARE_BITS - math.log2(peak))
    if least > most or abs(least) + SPARE_BITS > MAX_SCALE:
        raise CalibrationFailed(
            f"{where} has values of {peak:.2g} beside an RMS of {rms:.2g}: "
            "no scale keeps both within the integers of the protocol"
        )
    return min(least + SPARE_BITS, most)


@dataclass(frozen=True, slots=True)
class _Row:
    """One challenge of one layer: the answers of honest variants and of cheats."""

    reference: Vector
    honest: dict[str, Vector]
    cheats: dict[str, list[Vector]]

    def measure_spread(self) -> float:
        answers = list(self.honest.values())
        return max(
            compute_distance(one, other)
            for index, one in enumerate(answers)
            for other in answers[index:]
        )

    def measure_cheats(self) -> dict[str, float]:
        return {
            name: min(compute_distance(answer, self.reference) for answer in answers)
            for name, answers in self.cheats.items()
        }


class _Bench:
    """One layer, or the head, on the CPU in float32, and the ways to run a challenge of it."""

    def __init__(self, auditor: Auditor, config: ModelConfig, layer: int) -> None:
        self.config = config
        self._auditor = auditor
        self._is_head = layer == config.num_layers
        self.layer_weights = None if self._is_head else auditor.read_layer(layer)
        self._changed: dict[str, LayerWeights] = {}

    def read_input(self, task: ChallengeTask) -> Tensor:
        return self._auditor.read_input(task)

    def run(self, task: ChallengeTask, **options: Any) -> Vector:
        """Run a challenge honestly; ``options`` are those of compute_last_addition."""
        x = self.read_input(task)
        if self.layer_weights is None:
            return _to_numpy(compute_last_logits(self.config, *self._read_head(task), x))
        return _to_numpy(compute_last_addition(self.config, self.layer_weights, x, **options))

    def run_beside_others(self, task: ChallengeTask) -> Vector:
        """Run a challenge in one batch with others: products see all rows, attention its own."""
        x = self.read_input(task)
        if self.layer_weights is None:
            final_norm, head = self._read_head(task)
            wide = torch.cat([head, *[head.flip(0)] * BATCH_COPIES])
            logits = compute_last_logits(self.config, final_norm, wide, x)
            return _to_numpy(logits[: head.shape[0]])

        def multiply(rows: Tensor, matrix: Any, bias: Tensor | None) -> Tensor:
            others = [rows.flip(0)] * BATCH_COPIES
            return F.linear(torch.cat([rows, *others]), matrix, bias)[: rows.shape[0]]

        return _to_numpy(
            compute_last_addition(self.config, self.layer_weights, x, multiply=multiply)
        )

    def run_changed(
        self, task: ChallengeTask, name: str, change: Callable[[Tensor], Tensor]
    ) -> Vector:
        """Run a challenge with matrices that a cheat has changed."""
        x = self.read_input(task)
        if self.layer_weights is None:
            final_norm, head = self._read_head(task)
            return _to_numpy(compute_last_logits(self.config, final_norm, change(head), x))
        if name not in self._changed:
            self._changed[name] = self.layer_weights.change_matrices(change)
        return _to_numpy(compute_last_addition(self.config, self._changed[name], x))

    def run_narrow(self, task: ChallengeTask, dtype: torch.dtype) -> Vector:
        """Run a challenge with weights and activations of another type."""
        x = self.read_input(task).to(dtype)
        if self.layer_weights is None:
            final_norm, head = (part.to(dtype) for part in self._read_head(task))
            return _to_numpy(compute_last_logits(self.config, final_norm, head, x))
        return _to_numpy(compute_last_addition(self.config, self.layer_weights.cast(dtype), x))

    def run_layer_before(self, task: ChallengeTask, before: LayerWeights) -> Vector:
        x = self.read_input(task)
        return _to_numpy(compute_last_addition(self.config, before, x))

    def _read_head(self, task: ChallengeTask) -> tuple[Tensor, Tensor]:
        if task.head_rows is None:
            raise ValueError("a challenge of the head names its rows")
        return self._auditor.read_head(task.head_rows)


def _measure(bench: _Bench, task: ChallengeTask, before: LayerWeights | None) -> _Row:
    torch.set_num_threads(2)
    reference = bench.run(task)
    honest = {"threads-2": reference, "batch": bench.run_beside_others(task)}
    honest["fused-attention"] = bench.run(task, attend=_attend_fused)
    torch.set_num_threads(1)
    honest["threads-1"] = bench.run(task)
    skipped = [np.zeros_like(reference)]
    if bench.layer_weights is not None and before is not None:
        skipped.append(bench.run_layer_before(task, before))
    cheats = {
        "bfloat16": [bench.run_narrow(task, torch.bfloat16)],
        "int8": [bench.run_changed(task, "int8", round_to_int8)],
        "int4": [bench.run_changed(task, "int4", round_to_int4)],
        "skipped": skipped,
    }
    return _Row(reference, honest, cheats)


def round_to_int8(matrix: Tensor) -> Tensor:
    """Return a matrix [outputs, inputs] with the error of int8, one scale a row."""
    return quantise(matrix).widen(torch.float32).to(matrix.device)


def round_to_int4(matrix: Tensor) -> Tensor:
    """Return a matrix [outputs, inputs], or a stack, with the error of int4 in groups of 32."""
    *outputs, inputs = matrix.shape
    padded = F.pad(matrix, (0, -inputs % INT4_GROUP)).view(*outputs, -1, INT4_GROUP)
    scales = padded.abs().amax(-1, keepdim=True) / INT4_LARGEST
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    rounded = (padded / scales).round().clamp(-INT4_LARGEST, INT4_LARGEST) * scales
    return rounded.view(*outputs, -1)[..., :inputs]


def compute_distance(found: Vector, expected: Vector) -> float:
    """Relative L2 distance; a vector that is not finite is infinitely far away."""
    if not np.isfinite(found).all():
        return math.inf
    difference = found.astype(np.float64) - expected.astype(np.float64)
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    distance = float(np.linalg.norm(difference))
    return distance / norm if norm else (math.inf if distance else 0.0)


def _attend_fused(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    positions = queries.shape[0]
    mask = torch.ones(positions, positions, dtype=torch.bool, device=queries.device).tril()
    return attend_grouped(queries, keys.transpose(0, 1), values.transpose(0, 1), mask=mask)


def _smallest_of_each(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: min(row[name] for row in found) for name in found[0]}


def _as_integer(distance: float) -> int:
    return int(min(distance * DISTANCE_ONE, MAX_DISTANCE))


def _to_numpy(vector: Tensor) -> Vector:
    found: Vector = vector.float().cpu().numpy()
    return found


# Other instruction sets


@dataclass(frozen=True, slots=True)
class _Run:
    """A process that answers all tasks with narrower instructions."""

    name: str
    process: subprocess.Popen[str]
    answered: Path

    def collect(self) -> list[Vector]:
        """Wait for the answers. Raises CalibrationFailed."""
        try:
            _, said = self.process.communicate(timeout=RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise CalibrationFailed(f"measuring with {self.name} does not end") from error
        if self.process.returncode:
            reason = "".join(said.strip().splitlines()[-1:])
            raise CalibrationFailed(f"measuring with {self.name} failed: {reason}")
        with np.load(self.answered, allow_pickle=False) as archive:
            return [archive[str(place)] for place in range(len(archive.files))]


def _start_processes(
    stack: ExitStack,
    folder: ModelFolder,
    quant_type: str,
    tasks: Sequence[Sequence[ChallengeTask]],
) -> dict[str, _Run]:
    """Answer all tasks once with each narrower instruction set; the stack ends what still runs."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-calibration-")))
    asked = directory / "tasks.npz"
    save_tasks(asked, [task for challenge in tasks for task in challenge])
    runs = {}
    has_avx2 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    for name, settings in INSTRUCTION_SETS.items():
        if name == "avx2" and not has_avx2:
            continue
        answered = directory / f"{name}.npz"
        line = [sys.executable, "-m", "mesh.model.calibrate", str(folder.source), quant_type]
        process = stack.enter_context(
            subprocess.Popen(
                [*line, str(asked), str(answered)],
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(process.kill)
        runs[name] = _Run(name, process, answered)
    return runs


def save_tasks(path: Path, tasks: Sequence[ChallengeTask]) -> None:
    """Write tasks to an npz archive."""
    arrays: dict[str, Any] = {}
    for place, task in enumerate(tasks):
        arrays[f"{place}.layer"] = np.array(task.layer)
        for name in ("hidden", "token_ids", "head_rows"):
            value = getattr(task, name)
            if value is not None:
                arrays[f"{place}.{name}"] = value
    np.savez(path, **arrays)


def load_tasks(path: Path) -> list[StoredTask]:
    """Read tasks from an npz archive."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = sum(name.endswith(".layer") for name in arrays)
    return [
        StoredTask(
            int(arrays[f"{place}.layer"]),
            arrays[f"{place}.hidden"],
            arrays.get(f"{place}.token_ids"),
            arrays.get(f"{place}.head_rows"),
        )
        for place in range(count)
    ]


def main(folder: str, quant_type: str, asked: str, answered: str) -> None:
    """Answer the tasks of one archive into another: what a process of its own does."""
    located = resolve_model_folder(folder)
    auditor = Auditor(located, load_config(located.source), quant_type=quant_type)
    answers: dict[str, Any] = {
        str(place): auditor.answer(task) for place, task in enumerate(load_tasks(Path(asked)))
    }
    np.savez(Path(answered), **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
