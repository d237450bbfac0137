"""What `make fresh` reads out of README and Dockerfile, and when it refuses to start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import fresh_machine
from fresh_machine import Machine, find_readme_packages, parse_dockerfile

ROOT = Path(__file__).parents[2]


def test_a_dockerfile_is_read_step_by_step() -> None:
    text = "# first\nFROM a\n\nRUN one \\\n && two\n  # between\nENV A=1 \\\n    B=$A\n"
    assert list(parse_dockerfile(text)) == [
        ("FROM", "a"),
        ("RUN", "one && two"),
        ("ENV", "A=1 B=$A"),
    ]


def test_every_step_of_the_dockerfile_is_known_and_copies_what_exists(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"PATH": "/bin"}, frozenset())
    (tmp_path / "context").symlink_to(ROOT)
    ran: list[str] = []
    machine.run = lambda command, **_: ran.append(command)  # type: ignore[method-assign]
    for word, rest in parse_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        machine.do_step(word, rest)
    assert ran[-1] == "make install-node"
    assert machine.user == "mesh"
    assert machine.env["PATH"] == "/opt/mesh/.venv/bin:/bin"
    needed = {"pyproject.toml", "requirements.lock", "hatch_build.py", "subnet", "devchain"}
    assert needed <= set(os.listdir(tmp_path / "opt/mesh"))


def test_an_unknown_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ADD"):
        Machine(tmp_path, {}, frozenset()).do_step("ADD", "a b")


def test_readme_names_make_and_a_python_with_virtual_environments() -> None:
    packages = find_readme_packages().split()
    assert "make" in packages and packages[-1].endswith("-venv")


def test_without_root_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["fresh_machine.py"])
    assert fresh_machine.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Fix: sudo make fresh" in said
