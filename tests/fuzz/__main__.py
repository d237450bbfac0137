"""Try a million inputs on each decoder: ``python -m tests.fuzz --target all --inputs 1000000``.

Needs atheris, the extra ``fuzz``. An input that breaks a decoder is kept; ``--replay FILE`` runs it
again, and prints the entry for tests/vectors/invalid_*.json once the decoder refuses it. With
``--results FILE`` runs add up: each decoder gets what it lacks of its inputs, the fastest first.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz.results import Run, Total, append_run, put_table, read_totals, render_table

if TYPE_CHECKING:
    from tests.fuzz.target import Target

INPUT_SECONDS = 20
"""One input may take so long; a slower one is a hang."""
MAX_MEBIBYTES = 3072
"""A process may hold so much, torch and the runtime's metadata included."""
MAX_ALLOCATION_MEBIBYTES = 512
BLIND_SHARE = 0.5
"""How many inputs libFuzzer changes in its own way, which follows comparisons."""
PACKAGES = ["consensus", "devchain", "keys", "mesh", "subnet"]
"""Ours alone are counted for coverage: what is counted runs several times slower."""
_STATISTIC = re.compile(r"stat::(\w+): +(\d+)")


@dataclass(frozen=True)
class Result:
    """What became of one target. ``broken_by`` is the file with the input that broke it.

    ``cpu_s`` is the time of one core, which other work on the machine does not change;
    ``slowest_s`` what the slowest input took, in whole seconds; ``peak_mib`` what the process held,
    everything that is imported included.
    """

    name: str
    inputs: int
    seconds: float
    cpu_s: float
    slowest_s: int
    peak_mib: int
    broken_by: str | None
    seed: int
    output: str

    def as_run(self) -> Run:
        """Return what the file of results keeps."""
        day = datetime.now(UTC).date().isoformat()
        return Run(self.name, self.inputs, round(self.cpu_s, 1), self.seed, day)

    @property
    def line(self) -> str:
        end = "ok" if self.broken_by is None else f"BROKEN by {self.broken_by}"
        return (
            f"{self.name:24} {self.inputs:>9} inputs {self.seconds:7.0f} s, {self.cpu_s:.0f} s of "
            f"a core, slowest {self.slowest_s} s, {self.peak_mib} MiB  {end}"
        )


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", nargs="+", default=["all"], help="names from --list, or all")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target")
    parser.add_argument("--seconds", type=int, default=0, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=1, help="how many targets at a time")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="a folder")
    parser.add_argument("--results", type=Path, help="a file of runs that add up, one a line")
    parser.add_argument(
        "--write-table", type=Path, help="put what --results holds into this document, and end"
    )
    parser.add_argument("--replay", type=Path, help="run one input of --target again")
    parser.add_argument("--list", action="store_true", help="print the targets' names")
    parser.add_argument("--json", action="store_true", help="print one JSON object a target")
    options = parser.parse_args(arguments)
    if options.replay is not None and (options.target == ["all"] or len(options.target) > 1):
        parser.error("--replay needs the --target that the input is of")
    if options.write_table is not None and options.results is None:
        parser.error("--write-table needs --results")
    if options.inputs < 1 or options.parallel < 1 or options.seed < 1:
        parser.error("--inputs, --parallel and --seed are 1 or more")
    return options


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    has_atheris = importlib.util.find_spec("atheris") is not None
    is_fuzzing = options.replay is None and options.write_table is None and not options.list
    if is_fuzzing and not has_atheris:
        print(
            "atheris is not installed, and it is what breeds the inputs. "
            "Fix: pip install --constraint constraints.txt --editable '.[fuzz]' "
            "(it has wheels for Linux on x86-64)",
            file=sys.stderr,
        )
        return 1
    targets = load_targets(is_fuzzing=is_fuzzing)
    names = list(targets) if options.target == ["all"] else options.target
    unknown = [name for name in names if name not in targets]
    if unknown:
        print(f"no decoder is called {unknown[0]}. Fix: --list names them", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(targets))
        return 0
    if options.write_table is not None:
        return write_table(options, targets)
    if options.replay is not None:
        return replay(targets[names[0]], options.replay.read_bytes())
    return fuzz([targets[name] for name in names], options)


def write_table(options: argparse.Namespace, names: Iterable[str]) -> int:
    path: Path = options.write_table
    table = render_table(read_totals(options.results), names)
    try:
        path.write_text(put_table(path.read_text(encoding="utf-8"), table), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"{path}: {error}. Fix: name docs/fuzzing.md", file=sys.stderr)
        return 1
    return 0


def load_targets(*, is_fuzzing: bool) -> Mapping[str, Target]:
    """Import the table, and with it everything that is fuzzed."""
    counting: Any = nullcontext()
    if is_fuzzing:
        import atheris

        counting = atheris.instrument_imports(include=PACKAGES)
    # It tells of every module.
    with redirect_stderr(io.StringIO()), counting:
        from tests.fuzz.targets import TARGETS
    return TARGETS


def fuzz(targets: list[Target], options: argparse.Namespace) -> int:
    """Fuzz each target in a process of its own; return the exit status."""
    silence()
    options.findings.mkdir(parents=True, exist_ok=True)
    totals = {} if options.results is None else read_totals(options.results)
    targets = choose_order(targets, totals, options)
    results = []
    with ThreadPoolExecutor(options.parallel) as pool:
        for target in targets:
            # Before the threads: a fork may then copy no half-made simulation.
            len(target.seeds)
        # What is imported stays: a collection that walks through it takes 0.2 s of a core.
        gc.collect()
        gc.freeze()
        plans = [plan_run(target, totals, options) for target in targets]
        for future in as_completed([pool.submit(run, plan, options) for plan in plans]):
            result = future.result()
            results.append(result)
            report(result, is_json=options.json)
            if options.results is not None and result.broken_by is None:
                append_run(options.results, result.as_run())
    broken = [result.name for result in results if result.broken_by is not None]
    total = sum(result.inputs for result in results)
    print(f"{total} inputs, {len(broken)} of {len(results)} targets broken", file=sys.stderr)
    return 1 if broken else 0


@dataclass(frozen=True)
class Plan:
    """What one decoder is to get."""

    target: Target
    inputs: int
    seed: int


def plan_run(target: Target, totals: Mapping[str, Total], options: argparse.Namespace) -> Plan:
    """Return what the decoder lacks, under a seed that it has not had."""
    total = totals.get(target.name, Total())
    return Plan(target, options.inputs - total.inputs, max(options.seed, total.next_seed))


def choose_order(
    targets: list[Target], totals: Mapping[str, Total], options: argparse.Namespace
) -> list[Target]:
    """Return those that lack inputs, the fastest first: most are done early if time ends."""
    lacking = [
        target for target in targets if totals.get(target.name, Total()).inputs < options.inputs
    ]
    return sorted(lacking, key=lambda target: -totals.get(target.name, Total()).rate)


def silence() -> None:
    """Log nothing: servers log every refusal."""
    import structlog

    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def report(result: Result, *, is_json: bool) -> None:
    if is_json:
        fields = asdict(result)
        del fields["output"]
        print(json.dumps(fields), flush=True)
    else:
        print(result.line, flush=True)
    if result.broken_by is not None:
        print(result.output[-3000:], file=sys.stderr, flush=True)


def run(plan: Plan, options: argparse.Namespace) -> Result:
    """Fuzz one target in a child: libFuzzer ends the process that it runs in."""
    target = plan.target
    started_s = time.monotonic()
    prefix = options.findings / f"{target.name}-"
    before = set(options.findings.glob(f"{prefix.name}*"))
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryFile() as output:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
            become_fuzzer(
                target,
                seed=plan.seed,
                prefix=prefix,
                arguments=[
                    f"-runs={plan.inputs}",
                    f"-seed={plan.seed}",
                    f"-max_len={target.max_size}",
                    f"-max_total_time={options.seconds}",
                    f"-timeout={INPUT_SECONDS}",
                    f"-rss_limit_mb={MAX_MEBIBYTES}",
                    f"-malloc_limit_mb={MAX_ALLOCATION_MEBIBYTES}",
                    f"-artifact_prefix={prefix}",
                    "-print_final_stats=1",
                    corpus,
                ],
            )
        _, status, usage = os.wait4(pid, 0)
        output.seek(0)
        said = output.read().decode(errors="replace")
    statistics = {name: int(count) for name, count in _STATISTIC.findall(said)}
    broken_by = None
    if status:
        kept = sorted(set(options.findings.glob(f"{prefix.name}*")) - before)
        broken_by = str(kept[0]) if kept else f"exit status {os.waitstatus_to_exitcode(status)}"
    return Result(
        target.name,
        inputs=statistics.get("number_of_executed_units", 0),
        seconds=time.monotonic() - started_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        slowest_s=statistics.get("slowest_unit_time_sec", 0),
        peak_mib=statistics.get("peak_rss_mb", 0),
        broken_by=broken_by,
        seed=plan.seed,
        output=said,
    )


def become_fuzzer(target: Target, *, seed: int, prefix: Path, arguments: list[str]) -> None:
    """Never return: libFuzzer exits."""
    import atheris

    from tests.fuzz.mutate import mutate

    # Asked in the same order every time: seeding one for each input takes as long as the input.
    random = Random(seed)

    def change(raw: bytes, max_size: int, _seed: int) -> bytes:
        if random.random() < BLIND_SHARE:
            return bytes(atheris.Mutate(raw, max_size))
        return mutate(bytes(raw), random, max_size=max_size, others=target.seeds)

    def try_input(raw: bytes) -> None:
        try:
            target.check(raw)
        except BaseException:
            # libFuzzer keeps what crashes, hangs or fills memory, and not what raises.
            keep_finding(raw, prefix)
            raise

    atheris.Setup([sys.argv[0], *arguments], try_input, custom_mutator=change)
    try:
        atheris.Fuzz()
    finally:
        os._exit(1)


def keep_finding(raw: bytes, prefix: Path) -> Path:
    """Write an input that raised where libFuzzer writes one that crashed; return the file."""
    path = prefix.with_name(f"{prefix.name}crash-{hashlib.sha1(raw).hexdigest()}")
    path.write_bytes(raw)
    return path


def replay(target: Target, raw: bytes) -> int:
    """Try one input, and print what a vector would say of it."""
    target.check(raw)
    refusal = target.find_refusal(raw)
    if refusal is None:
        print(f"{target.name} takes it")
        return 0
    entry = {
        "name": "",
        "target": target.name,
        "input": raw.hex(),
        "error": type(refusal).__name__,
        "reason": str(refusal),
    }
    print(json.dumps(entry, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
