"""Which version this program is: to peers by its number, to people with its commit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parent
# Written by hatch_build.py into wheels and source distributions.
_COMMIT_FILE = "COMMIT"

try:
    _VERSION = version("mesh-subnet")
except PackageNotFoundError:
    # Run from a source tree that was never installed.
    _VERSION = "source"

SOFTWARE = f"mesh/{_VERSION}"


def describe_version() -> str:
    """Return version and commit, such as ``0.1.0 (commit 1a2b3c4d5e6f)``."""
    return f"{_VERSION} (commit {read_commit(_PACKAGE)})"


def read_commit(package: Path) -> str:
    """Return the commit that a ``subnet`` package was made from, or ``unknown``.

    A checkout asks git, which marks uncommitted changes with ``-dirty``; a built package reads
    the file that the build left in it.
    """
    baked = package / _COMMIT_FILE
    if baked.exists():
        return baked.read_text(encoding="utf-8").strip()
    if not (package.parent / ".git").exists():
        return "unknown"
    import subprocess

    command = ["git", "-C", str(package.parent), "describe"]
    command += ["--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
