"""The wheel and the source distribution of the node: what is in them, and which commit."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.builds import build, unpack

ROOT = Path(__file__).parents[2]
PACKAGES = ("consensus", "devchain", "keys", "mesh", "subnet")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked: a tree without git."""
    folder = tmp_path_factory.mktemp("source")
    return unpack(build("sdist", ROOT, folder, MESH_COMMIT="0123456789ab"), folder)


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution builds."""
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_every_top_level_package_is_in_the_wheel_and_typed(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert folders == set(PACKAGES)
    for package in PACKAGES:
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= names


def test_the_wheel_has_every_module_of_the_tree(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert names == modules


def test_the_source_distribution_can_be_installed_as_readme_says(source: Path) -> None:
    for name in ("Makefile", "constraints.txt", "requirements.lock", "requirements-dev.lock"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_commit_goes_from_the_source_distribution_into_the_wheel(wheel: Path) -> None:
    assert zipfile.ZipFile(wheel).read("subnet/COMMIT") == b"0123456789ab"


def test_an_installed_wheel_names_its_commit(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = f"import sys; sys.path[0] = {str(tmp_path)!r}; import subnet.version as v; "
    script += "print(v.describe_version())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("(commit 0123456789ab)\n")


def test_unpacking_refuses_a_path_that_leads_outside(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    outside = tmp_path / "file"
    outside.touch()
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(outside, "../../escaped")
    with pytest.raises((ValueError, tarfile.TarError)):
        unpack(archive, tmp_path / "into")
    assert not (tmp_path.parent / "escaped").exists() and os.path.exists(outside)
