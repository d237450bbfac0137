"""Replay one seed, or search many: ``python -m tests.simulation --seed 7 --epochs 20``."""

from __future__ import annotations

import argparse
import json
import sys
import time

from subnet.simulation.invariants import Violation
from subnet.simulation.scenario import MIN_NODES, FaultFamily, draw_scenario
from subnet.simulation.world import run_scenario


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--stride", type=int, default=1, help="from one seed to the next")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument(
        "--faults",
        nargs="*",
        choices=["none", *(fault.value for fault in FaultFamily)],
        help="families of faults, or none; without this the seed decides",
    )
    parser.add_argument("--quiet", action="store_true", help="print one line a seed, no trace")
    parser.add_argument("--json", action="store_true", help="print one JSON object a seed")
    options = parser.parse_args(arguments)
    if not MIN_NODES <= options.nodes <= 100:
        parser.error(f"--nodes is from {MIN_NODES} to 100")
    return options


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    faults = None
    if options.faults is not None:
        faults = [FaultFamily(name) for name in options.faults if name != "none"]
    end = options.seed + options.seeds * options.stride
    failed = [
        seed
        for seed in range(options.seed, end, options.stride)
        if not run_seed(seed, options, faults)
    ]
    if failed:
        print(f"{len(failed)} of {options.seeds} seeds failed: {failed}", file=sys.stderr)
    return 1 if failed else 0


def run_seed(seed: int, options: argparse.Namespace, faults: list[FaultFamily] | None) -> bool:
    """Run one seed, print what it came to, and say whether all invariants held."""
    scenario = draw_scenario(seed, epochs=options.epochs, nodes=options.nodes, faults=faults)
    started_s = time.monotonic()
    is_silent = options.quiet or options.json
    try:
        result = run_scenario(scenario, show=None if is_silent else print)
    except Violation as violation:
        print(f"FAILED seed {seed}: {violation}", file=sys.stderr, flush=True)
        return False
    if options.json:
        print(json.dumps(result.describe()), flush=True)
        return True
    print(
        f"seed {seed}: {result.num_attested}/{scenario.epochs} epochs attested, "
        f"{result.num_deaths} deaths, {result.num_checks} checks, "
        f"trace {result.trace_hash[:16]} of {result.num_lines} lines, "
        f"{time.monotonic() - started_s:.2f} s",
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
