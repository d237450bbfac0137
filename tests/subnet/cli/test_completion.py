"""Shells complete commands, options and choices, also with a configuration file that is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = {"mesh": "subnet.cli.mesh", "mesh-test": "subnet.cli.mesh_test"}
COMPLETE = """
eval "$(_{variable}_COMPLETE=source_bash {program})"
COMP_WORDS=({line})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds both programs."""
    for name, module in MODULES.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tmp_path / name).chmod(0o700)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def get_variable(program: str) -> str:
    return program.replace("-", "_").upper()


def complete_in_bash(line: str, environment: dict[str, str]) -> list[str]:
    """Return what bash offers for a line; two quotes at its end are an empty word."""
    program = line.split()[0]
    script = COMPLETE.format(variable=get_variable(program), program=program, line=line)
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mesh cha", ["chain"]),
        ("mesh chain acc", ["accept-subnet", "accounts"]),
        ("mesh chain accounts exp", ["export"]),
        ("mesh config ''", ["show"]),
        ("mesh node M --hos", ["--hoster", "--host-maddrs"]),
        ("mesh node M --subnet", ["--subnet"]),
        ("mesh node M --log-level ''", ["debug", "info", "warning", "error"]),
        ("mesh-test M --ho", ["--hoster", "--host-maddrs", "--hop-dtype", "--hotkey-path"]),
        ("mesh-test M --log-format p", ["pretty"]),
    ],
)
def test_bash_offers_what_may_follow(
    line: str, offered: list[str], programs: dict[str, str]
) -> None:
    assert sorted(complete_in_bash(line, programs)) == sorted(offered)


ZSH = """
words=({line}); CURRENT=$#words
compdef() {{ }}
_arguments() {{ print -r -- "$@" }}
eval "$(_MESH_COMPLETE=source_zsh mesh)"
_mesh_completion
"""
FISH = "_MESH_COMPLETE=source_fish mesh | source; complete -C '{line}'"


@pytest.mark.parametrize(
    "line", [["zsh", "-f", "-c", ZSH], ["fish", "--no-config", "-c", FISH]], ids=["zsh", "fish"]
)
def test_zsh_and_fish_offer_what_may_follow(line: list[str], programs: dict[str, str]) -> None:
    if shutil.which(line[0]) is None:
        pytest.skip(f"{line[0]} is not installed")
    line = [*line[:-1], line[-1].format(line="mesh chain acco")]
    done = subprocess.run(
        line, env=programs, capture_output=True, text=True, timeout=120, check=True
    )
    assert "accounts" in done.stdout and "accept-subnet" not in done.stdout
    assert not done.stderr


def test_a_broken_configuration_file_does_not_disturb_completion(
    programs: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mesh.toml").write_text("chain = ")
    environment = programs | {"MESH_CONFIG": str(tmp_path / "mesh.toml")}
    assert complete_in_bash("mesh chain acco", environment) == ["accounts"]


@pytest.mark.parametrize("program", sorted(MODULES))
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_it_can_read(
    shell: str, program: str, programs: dict[str, str]
) -> None:
    environment = programs | {f"_{get_variable(program)}_COMPLETE": f"source_{shell}"}
    made = subprocess.run(
        [program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert program in made.stdout and f"complete_{shell}" in made.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=made.stdout, text=True, timeout=60, check=True)


@pytest.mark.parametrize(
    ("shell", "asks"),
    [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})],
)
def test_the_other_shells_are_answered_in_their_own_form(
    shell: str, asks: dict[str, str], programs: dict[str, str]
) -> None:
    environment = programs | asks
    environment |= {
        "_MESH_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "mesh chain acco",
    }
    done = subprocess.run(
        ["mesh"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "accounts" in done.stdout and "accept-subnet" not in done.stdout
    assert not done.stderr
