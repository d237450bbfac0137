"""Says how many lines the last quick tests ran, and fails below the floors.

python tools/check_coverage.py [--missing] [total=PERCENT] [FOLDER=PERCENT ...]

`make test-quick` lets slipcover write what it counted to .coverage.json; this reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COUNTED = Path(__file__).resolve().parents[1] / ".coverage.json"
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """How many lines of one file ran, and the numbers of those that did not."""

    path: str
    num_run: int
    missing: Sequence[int]


def main(arguments: Sequence[str] | None = None, *, counted: Path = COUNTED) -> int:
    """Print a line for each floor; return 1 when one is not reached, 2 when nothing was counted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--missing", action="store_true", help="list the lines that did not run")
    parser.add_argument("floors", nargs="*", metavar="FOLDER=PERCENT")
    options = parser.parse_args(arguments)
    try:
        files = read_coverage(counted.read_text())
    except FileNotFoundError:
        print(f"{counted.name} is not there. Fix: make test-quick", file=sys.stderr)
        return 2
    if options.missing:
        for file in files:
            if file.missing:
                print(f"{file.path}: {format_ranges(file.missing)}")
    low = [floor for floor in options.floors if not _report(files, floor)]
    if low:
        print(
            f"{', '.join(low)} is not reached. Fix: test it; make coverage shows where",
            file=sys.stderr,
        )
    return 1 if low else 0


def read_coverage(text: str) -> list[FileCoverage]:
    """Return the files in slipcover's JSON ``text``, in the order of their paths."""
    files: Mapping[str, Mapping[str, Sequence[int]]] = json.loads(text)["files"]
    return [
        FileCoverage(path, len(file["executed_lines"]), tuple(file["missing_lines"]))
        for path, file in sorted(files.items())
    ]


def compute_percentage(files: Iterable[FileCoverage], folder: str) -> float:
    """Return the percentage of ``folder``'s lines that ran; 0 when none was counted."""
    counted = [file for file in files if folder in (TOTAL, file.path.partition("/")[0])]
    num_run = sum(file.num_run for file in counted)
    num_lines = num_run + sum(len(file.missing) for file in counted)
    return 100 * num_run / num_lines if num_lines else 0.0


def format_ranges(lines: Iterable[int]) -> str:
    """Return ascending line numbers as text, like ``3-5, 9``."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def _report(files: Sequence[FileCoverage], floor: str) -> bool:
    folder, _, least = floor.partition("=")
    percentage = compute_percentage(files, folder)
    print(f"{floor}: {percentage:.2f} % of lines")
    return percentage >= float(least)


if __name__ == "__main__":
    sys.exit(main())
