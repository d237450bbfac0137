"""requirements*.lock agree with pyproject.toml and constraints.txt; `make lock` makes them so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
LOCKS = {
    "requirements.lock": ("build", "grammar"),
    "requirements-dev.lock": ("build", "client", "dev"),
}


def read_lock(name: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """Return name -> requirement and hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    locked = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.partition(" --hash=")[0])
            hashes = frozenset(re.findall(r"--hash=(\S+)", line))
            locked[canonicalize_name(requirement.name)] = requirement, hashes
    return locked


def read_pins() -> dict[str, str]:
    """Return name -> version of constraints.txt."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        pins[canonicalize_name(name)] = version
    return pins


def read_declared(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for, with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines if not line.startswith("mesh-subnet[")]


def is_for_linux(requirement: Requirement) -> bool:
    """Whether some supported Python on Linux installs it."""
    return requirement.marker is None or any(
        requirement.marker.evaluate(
            {
                **default_environment(),
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": "linux",
            }
        )
        for python in PYTHONS
    )


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_every_declared_package_in_its_range(name: str) -> None:
    locked = read_lock(name)
    for declared in read_declared(*LOCKS[name]):
        if declared.name != "torch":
            requirement, _ = locked[canonicalize_name(declared.name)]
            (pin,) = requirement.specifier
            assert declared.specifier.contains(pin.version), f"{requirement} is not {declared}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_what_constraints_pin(name: str) -> None:
    pins = read_pins()
    for package, (requirement, _) in read_lock(name).items():
        if is_for_linux(requirement):
            assert str(requirement.specifier) == f"=={pins[package]}"


def test_every_constraint_is_in_the_lock_of_development_but_torch_and_the_fuzzer() -> None:
    locked = {name for name, (line, _) in read_lock("requirements-dev.lock").items()}
    without = {requirement.name for requirement in read_declared()}
    fuzzer = {requirement.name for requirement in read_declared("fuzz")} - without
    assert set(read_pins()) - locked == {"torch"} | fuzzer


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes(name: str) -> None:
    for requirement, hashes in read_lock(name).values():
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in hashes)


def test_the_lock_of_a_node_is_part_of_that_of_development() -> None:
    development = read_lock("requirements-dev.lock")
    for package, (requirement, hashes) in read_lock("requirements.lock").items():
        assert development[package][0].specifier == requirement.specifier
        assert development[package][1] == hashes


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_neither_an_index_nor_a_build_of_torch(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|^--|^(torch|triton|nvidia-|cuda-)", text, re.MULTILINE)


def test_torch_is_pinned_to_a_version_in_its_range() -> None:
    (declared,) = (line for line in read_declared() if line.name == "torch")
    assert declared.specifier.contains(read_pins()["torch"])
