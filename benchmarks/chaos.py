"""What real processes survive: a local network of eight nodes, and faults in every phase.

    python benchmarks/chaos.py                           one round of each scenario, as a table
    python benchmarks/chaos.py --json                    one JSON object
    python benchmarks/chaos.py --only kill-nodes storm   some scenarios
    python benchmarks/chaos.py --list                    what there is
    python benchmarks/chaos.py --rounds 10 --only kill-nodes kill-p2pd storm    200 kills and more

Five hosters and three validators run as ``mesh localnet`` runs them, each a process with a p2pd of
its own, on a development chain over WebSocket; a supervisor starts each again when it ends. A round
of a scenario is one epoch of faults. Faults are drawn from the seed, which is printed.

An epoch is judged when its scores stand on the chain. Lost is a commit (of a hoster's outputs or a
validator's audit) that its author's journal does not hold together with the reveal that opens it.
Doubled is a record of which two versions exist in any journals, those of killed nodes at their
death included. A node keeps its score if the proposal pays it as in an epoch without faults.

Blocks are made by hand, at the pace of the slowest node, so that this machine's speed does not
decide: a restart costs the chain about one block of the twenty of an epoch. The first epochs are
calm; what is wrong in them is not the faults' doing, and is reported as such.

The network runs in a child process; with the rights for it, in a network and a mount namespace of
its own. This process, outside, looks for what is left: processes, files, mounts. A scenario that
lacks rights is not run, and the reason is reported. Exits 0 only if all that ran held.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from mesh.inference.threads import wait_passively

# Before torch is imported in the fork server.
wait_passively()

MARK = "MESH_CHAOS_RUN"
BLOCK_SECONDS = 1.5
LEFTOVER_WAIT_S = 10.0
POLL_S = 0.2
UNSHARE = ("unshare", "--mount", "--net", "--propagation", "private")


def main() -> None:
    arguments = parse_arguments()
    if arguments.list:
        show_scenarios()
    elif arguments.inside:
        run_inside(arguments)
    else:
        sys.exit(run_outside(arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--rounds", type=int, default=1, help="epochs of faults of each scenario")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios to run")
    parser.add_argument("--seed", type=int, help="replays the same faults; drawn if absent")
    parser.add_argument("--block-seconds", type=float, default=BLOCK_SECONDS)
    parser.add_argument("--keep", type=Path, help="keep journals and logs in this new directory")
    parser.add_argument("--inside", choices=("namespaces", "host"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    if arguments.seed is None:
        arguments.seed = secrets.randbelow(1 << 32)
    return arguments


def show_scenarios() -> None:
    from benchmarks.chaos_scenarios import SCENARIOS

    for scenario in SCENARIOS:
        print(f"{scenario.name:<12} {scenario.summary}")


def run_inside(arguments: argparse.Namespace) -> None:
    """Run the scenarios and print their outcomes as JSON; the parent asked for this."""
    import asyncio

    from benchmarks.chaos_run import RunOptions, run_scenarios
    from benchmarks.chaos_scenarios import choose_scenarios
    from subnet.localnet.processes import die_with_parent
    from subnet.operator.interrupts import run_interruptible

    die_with_parent(os.getppid())
    options = RunOptions(
        rounds=arguments.rounds,
        seed=arguments.seed,
        block_seconds=arguments.block_seconds,
        keep=arguments.keep,
        has_namespaces=arguments.inside == "namespaces",
    )
    running = run_scenarios(choose_scenarios(arguments.only), options)
    print(json.dumps(asyncio.run(run_interruptible(running))))


def run_outside(arguments: argparse.Namespace) -> int:
    """Run the child, look for what it left, print; return the exit code."""
    from benchmarks.chaos_scenarios import choose_scenarios

    choose_scenarios(arguments.only)
    has_namespaces = can_unshare()
    mark = secrets.token_hex(8)
    print(f"seed {arguments.seed}", file=sys.stderr)
    # Short, since unix sockets live below it.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    started = time.monotonic()
    line = [*UNSHARE] if has_namespaces else []
    line += [sys.executable, str(Path(__file__).resolve()), *make_inner_line(arguments)]
    line += ["--inside", "namespaces" if has_namespaces else "host"]
    child = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder), MARK: mark},
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    output = child.communicate()[0]
    left = find_leftovers(mark, folder) + list_mounts(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if child.returncode != 0:
        for one in left:
            print(f"left: {one}", file=sys.stderr)
        return child.returncode if child.returncode > 0 else 1
    result = summarise(json.loads(output), left)
    result |= {"seed": arguments.seed, "seconds": round(time.monotonic() - started)}
    print(json.dumps(result, indent=2)) if arguments.json else show(result)
    return 0 if result["holds"] else 1


def make_inner_line(arguments: argparse.Namespace) -> list[str]:
    line = ["--rounds", str(arguments.rounds), "--seed", str(arguments.seed)]
    line += ["--block-seconds", str(arguments.block_seconds)]
    line += ["--keep", str(arguments.keep)] if arguments.keep is not None else []
    return line + (["--only", *arguments.only] if arguments.only else [])


def can_unshare() -> bool:
    """Whether this user may make network and mount namespaces, and has the tools for it."""
    if shutil.which(UNSHARE[0]) is None or shutil.which("ip") is None:
        return False
    probe = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True)
    return probe.returncode == 0


def list_mounts(folder: Path) -> list[str]:
    """Return what is mounted below the folder: other programs of this machine mount, too."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted(f"mount {point}" for point in points if Path(point).is_relative_to(folder))


def find_leftovers(mark: str, folder: Path) -> list[str]:
    """Return what is left of the run: marked processes of any parent, and files."""
    deadline = time.monotonic() + LEFTOVER_WAIT_S
    while (left := list_marked(mark)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    found = []
    for process in left:
        try:
            found.append(f"process {process.pid}: {' '.join(process.cmdline()[:4])}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return found + [f"file {path}" for path in sorted(folder.rglob("*"))]


def list_marked(mark: str) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                marked.append(process)
        except psutil.Error:
            continue
    return marked


def summarise(outcomes: list[dict[str, Any]], left: list[str]) -> dict[str, Any]:
    ran = [one for one in outcomes if one["not_run"] is None]
    totals = {
        name: sum(one[name] for one in ran)
        for name in ("kills", "commits", "lost", "doubled", "scores_kept", "scores_due")
    }
    return {
        "holds": not left and not any(one["violations"] for one in ran),
        **totals,
        "left": left,
        "scenarios": outcomes,
    }


def show(result: dict[str, Any]) -> None:
    print("scenario      epochs  kills  commits  lost  doubled  scores kept  attested  back after")
    for one in result["scenarios"]:
        if one["not_run"] is not None:
            print(f"{one['name']:<12}  not run: {one['not_run']}")
            continue
        back = "-" if one["restart_s"] is None else f"{one['restart_s']:.1f} s"
        kept = f"{one['scores_kept']} of {one['scores_due']}"
        print(
            f"{one['name']:<12}  {one['epochs']:>6}  {one['kills']:>5}  {one['commits']:>7}  "
            f"{one['lost']:>4}  {one['doubled']:>7}  {kept:>11}  "
            f"{one['lowest_attested'] or 0:>8}  {back:>10}"
        )
    for one in result["scenarios"]:
        for violation in one["violations"]:
            print(f"VIOLATION ({one['name']}): {violation}")
    for one in result["left"]:
        print(f"LEFT: {one}")
    print(
        f"{result['kills']} kills, {result['lost']} lost and {result['doubled']} doubled of "
        f"{result['commits']} commits, {result['scores_kept']} of {result['scores_due']} scores "
        f"kept, {len(result['left'])} things left; seed {result['seed']}, {result['seconds']} s: "
        f"{'holds' if result['holds'] else 'DOES NOT HOLD'}"
    )


if __name__ == "__main__":
    main()
