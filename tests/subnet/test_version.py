"""Which commit ``--version`` names: git's in a checkout, the build's file elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from subnet.version import SOFTWARE, describe_version, read_commit

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit; returns its package folder."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "subnet"
    package.mkdir()
    (package / "file").write_text("1")
    for line in (["init"], ["add", "."], ["commit", "--message", "first", "--no-gpg-sign"]):
        subprocess.run([*GIT, *line], cwd=tmp_path, check=True, capture_output=True)
    return package


def test_a_checkout_names_gits_commit(checkout: Path) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    )
    assert read_commit(checkout) == head.stdout[:12]
    (checkout / "file").write_text("2")
    assert read_commit(checkout) == f"{head.stdout[:12]}-dirty"


def test_a_built_package_names_the_commit_of_its_build(tmp_path: Path) -> None:
    (tmp_path / "COMMIT").write_text("0123456789ab\n")
    assert read_commit(tmp_path) == "0123456789ab"


def test_a_tree_that_nobody_described_says_unknown(tmp_path: Path) -> None:
    assert read_commit(tmp_path / "subnet") == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert read_commit(tmp_path / "subnet") == "unknown"


def test_peers_are_told_the_version_alone() -> None:
    assert SOFTWARE.startswith("mesh/") and "commit" not in SOFTWARE
    assert describe_version().startswith(SOFTWARE.removeprefix("mesh/") + " (commit ")
