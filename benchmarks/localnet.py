"""How long a newcomer waits for the first attested proposal, and how much memory that takes.

Seconds from the start of ``mesh localnet`` to its first row, and the peak of the
proportional set size (PSS) of all its processes together.

python -m benchmarks.localnet [--runs N] [--block-seconds S] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.5
WAIT_TARGET_S = 120.0
MEMORY_TARGET_GIB = 5.0


@dataclass(frozen=True)
class Measured:
    """One run. Memory is the largest sample of the sum over all processes."""

    exit_code: int
    first_row_s: float | None
    whole_run_s: float
    peak_pss_gib: float
    peak_processes: int


class MemoryWatch(threading.Thread):
    """Samples the PSS of a process and of all its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._stopping = threading.Event()
        self.peak_bytes = 0
        self.peak_processes = 0

    def run(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            self.peak_bytes = max(self.peak_bytes, sum(read_pss(one.pid) for one in family))
            self.peak_processes = max(self.peak_processes, len(family))

    def stop(self) -> None:
        self._stopping.set()
        self.join()


def read_pss(pid: int) -> int:
    """Return the bytes of one process, shared pages divided among those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(block_seconds: float, epochs: int) -> Measured:
    """Run one local network and measure it."""
    line = [sys.executable, "-m", "subnet.cli.mesh", "localnet", "--json"]
    line += ["--block-seconds", str(block_seconds), "--epochs", str(epochs)]
    began = time.perf_counter()
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        watch = MemoryWatch(process.pid)
        watch.start()
        assert process.stdout is not None
        first_row_s = time.perf_counter() - began if process.stdout.readline() else None
        process.stdout.read()
        process.wait()
        whole_run_s = time.perf_counter() - began
        watch.stop()
    return Measured(
        exit_code=process.returncode,
        first_row_s=first_row_s,
        whole_run_s=whole_run_s,
        peak_pss_gib=watch.peak_bytes / 2**30,
        peak_processes=watch.peak_processes,
    )


def show(runs: list[Measured]) -> None:
    print(f"{os.cpu_count()} cores; first row within {WAIT_TARGET_S:.0f} s, ", end="")
    print(f"all processes under {MEMORY_TARGET_GIB:.0f} GiB are wanted")
    print("run  exit  first row  whole run  peak PSS   processes")
    for number, run in enumerate(runs, start=1):
        first = "-" if run.first_row_s is None else f"{run.first_row_s:.1f} s"
        print(
            f"{number:<3}  {run.exit_code:<4}  {first:<9}  {run.whole_run_s:<6.1f} s   "
            f"{run.peak_pss_gib:.2f} GiB   {run.peak_processes}"
        )


def is_good(run: Measured) -> bool:
    is_quick = run.first_row_s is not None and run.first_row_s <= WAIT_TARGET_S
    return run.exit_code == 0 and is_quick and run.peak_pss_gib <= MEMORY_TARGET_GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--block-seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    runs = [measure(options.block_seconds, options.epochs) for _ in range(options.runs)]
    if options.as_json:
        print(json.dumps([asdict(run) for run in runs]))
    else:
        show(runs)
    sys.exit(0 if all(is_good(run) for run in runs) else 1)


if __name__ == "__main__":
    main()
