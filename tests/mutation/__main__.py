"""Break one rule at a time and see which tests notice: ``python -m tests.mutation``.

Exit status 1 says that a broken rule survived, 2 that the list or the unbroken sources are wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.mutation.harness import BadBaseline, BadList, Harness, Stage, describe
from tests.mutation.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
SOURCES = ("keys", "consensus", "mesh", "devchain", "subnet", "tests", "pyproject.toml")
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
_SEEDS = ("-m", "tests.simulation", "--seed", "0", "--seeds", "20", "--epochs", "10", "--quiet")
STAGES = (
    # What fuzzing found is about formats, and its imports take longer than the vectors.
    Stage("vectors", (*_PYTEST, "tests/vectors", "--ignore", "tests/vectors/test_invalid.py")),
    Stage(
        "unit tests",
        (*_PYTEST, "tests/consensus", "tests/keys", "tests/subnet/epoch", "tests/subnet/journal"),
    ),
    Stage("scenarios", (*_PYTEST, "tests/simulation/test_attacks.py")),
    Stage("seeds", _SEEDS),
)
"""The killers, the quickest first."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="those with a word in the name")
    parser.add_argument("--stages", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--parallel", type=int, default=2, help="how many at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON object a mutation")
    parser.add_argument("--list", action="store_true", help="print the list, and check it")
    options = parser.parse_args(arguments)
    chosen = [
        mutation
        for mutation in MUTATIONS
        if options.only is None or any(word in mutation.name for word in options.only)
    ]
    stages = tuple(
        stage for stage in STAGES if options.stages is None or stage.name in options.stages
    )
    harness = Harness(ROOT, SOURCES, stages)
    verdicts = []
    try:
        if options.list:
            harness.check_list(MUTATIONS)
            print("\n".join(f"{m.name}: {m.breaks} ({m.file})" for m in chosen))
            return 0
        for verdict in harness.run(chosen, parallel=options.parallel):
            verdicts.append(verdict)
            if options.json:
                fields = {"name": verdict.mutation.name, "file": verdict.mutation.file}
                fields |= {"breaks": verdict.mutation.breaks, "killed_by": verdict.killed_by}
                print(json.dumps(fields | {"seconds": round(verdict.seconds, 1)}), flush=True)
            else:
                print(f"{verdict.seconds:6.0f} s  {describe([verdict])}", flush=True)
    except (BadList, BadBaseline) as error:
        print(f"mutation: {error}", file=sys.stderr)
        return 2
    if not options.json:
        print(f"\n{describe(verdicts)}")
    survivors = [verdict for verdict in verdicts if verdict.has_survived]
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} are noticed", file=sys.stderr)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
