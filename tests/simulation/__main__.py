"""Replay one seed, or search many: ``python -m tests.simulation --seed 7 --epochs 20``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.invariants import Violation
from tests.simulation.scenario import MIN_NODES, Fault, draw_scenario
from tests.simulation.world import run_scenario


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=7)
    parser.add_argument(
        "--faults",
        nargs="*",
        choices=["none", *(fault.value for fault in Fault)],
        help="families of faults, or none; without this the seed decides",
    )
    parser.add_argument("--quiet", action="store_true", help="print one line a seed, no trace")
    options = parser.parse_args(arguments)
    if not MIN_NODES <= options.nodes <= 100:
        parser.error(f"--nodes is from {MIN_NODES} to 100")
    return options


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    faults = None
    if options.faults is not None:
        faults = [Fault(name) for name in options.faults if name != "none"]
    num_failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        scenario = draw_scenario(seed, epochs=options.epochs, nodes=options.nodes, faults=faults)
        started_s = time.monotonic()
        try:
            result = run_scenario(scenario, show=None if options.quiet else print)
        except Violation as violation:
            num_failed += 1
            print(f"FAILED seed {seed}: {violation}", file=sys.stderr)
            continue
        took_s = time.monotonic() - started_s
        print(
            f"seed {seed}: {result.num_attested}/{scenario.epochs} epochs attested, "
            f"{result.num_deaths} deaths, {result.num_checks} checks, "
            f"trace {result.trace_hash[:16]} of {result.num_lines} lines, {took_s:.2f} s"
        )
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
