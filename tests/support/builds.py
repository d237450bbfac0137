"""Distributions as pip builds and unpacks them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path


def build(kind: str, project: Path, target: Path, **env: str) -> Path:
    """Build a ``wheel`` or an ``sdist``, in a process of its own: the backend reads its folder."""
    script = f"import hatchling.build as b, sys; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        cwd=project,
        env={**os.environ, **env},
        capture_output=True,
        check=True,
    )
    return target / done.stdout.decode().strip().splitlines()[-1]


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a source distribution and return its folder; ValueError for a path outside it."""
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):
            packed.extractall(target, filter="data")
        else:
            # Before 3.11.4: plain files and folders below the target, as the filter checks.
            for member in packed.getmembers():
                path = (target / member.name).resolve()
                if not path.is_relative_to(target.resolve()) or not (
                    member.isfile() or member.isdir()
                ):
                    raise ValueError(f"{member.name} is not a file below {target}")
            packed.extractall(target)
    return target / archive.name.removesuffix(".tar.gz")
