"""What has been tried on each decoder, run after run, in a file of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

WANTED = 1_000_000
"""Inputs that every decoder is to have."""
START_S = 0.2
"""What a process takes before its first input; it counts for short runs."""


@dataclass(frozen=True)
class Run:
    """Inputs that one decoder took or refused as it should. ``date`` is the day (UTC)."""

    name: str
    inputs: int
    cpu_s: float
    seed: int
    date: str


@dataclass(frozen=True)
class Total:
    """All runs of one decoder."""

    runs: tuple[Run, ...] = ()

    @property
    def inputs(self) -> int:
        return sum(run.inputs for run in self.runs)

    @property
    def rate(self) -> float:
        """Inputs in a second of one core; 0 where none was tried."""
        cpu_s = sum(max(run.cpu_s - START_S, run.cpu_s / 2) for run in self.runs)
        return self.inputs / cpu_s if cpu_s else 0.0

    @property
    def date(self) -> str:
        return max((run.date for run in self.runs), default="")

    @property
    def next_seed(self) -> int:
        """A seed that no run had: the same one would breed the same inputs."""
        return max((run.seed for run in self.runs), default=0) + 1

    def compute_rest_s(self, wanted: int) -> float:
        """Return how long one core takes for the inputs that are missing."""
        rest = max(0, wanted - self.inputs)
        return rest / self.rate if self.rate else 0.0


def read_totals(path: Path) -> dict[str, Total]:
    """Return what each decoder has had, by its name; nothing where there is no file."""
    found: dict[str, Total] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            run = Run(**json.loads(line))
            found[run.name] = Total((*found.get(run.name, Total()).runs, run))
    return found


def append_run(path: Path, run: Run) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def render_table(totals: Mapping[str, Total], names: Iterable[str]) -> str:
    """Return the table of docs/fuzzing.md: decoders with the most inputs first."""
    rows = sorted(((totals.get(name, Total()), name) for name in names), key=_order)
    done = sum(total.inputs >= WANTED for total, _ in rows)
    rest_s = sum(total.compute_rest_s(WANTED) for total, _ in rows)
    inputs = sum(total.inputs for total, _ in rows)
    untried = sum(not total.rate for total, _ in rows)
    missing = (
        f"What is missing takes one core {rest_s / 3600:.1f} hours at these rates; "
        f"decoders that have none are not counted in it, {untried} of them."
    )
    lines = [
        f"{done} of {len(rows)} decoders have had a million inputs, and all of them {inputs:,}.",
        *([missing] if done < len(rows) else []),
        "",
        "| decoder | inputs | a second of a core | last run |",
        "|---|---:|---:|---|",
        *(
            f"| `{name}` | {total.inputs:,} | {total.rate:,.0f} | {total.date} |"
            for total, name in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _order(row: tuple[Total, str]) -> tuple[int, str]:
    total, name = row
    return -total.inputs, name


def put_table(document: str, table: str) -> str:
    """Return the document with this table behind the line that begins it."""
    head, mark, _ = document.partition(MARK)
    if not mark:
        raise ValueError(f"the document has no line {MARK!r}")
    return f"{head}{mark}\n\n{table}"


MARK = "<!-- written by python -m tests.fuzz --write-table -->"
