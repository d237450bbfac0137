"""The unit files: systemd finds no fault, and our own command line takes theirs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from subnet.cli.wait_for_restart_window import wait_for_restart_window
from subnet.operator.interrupts import STOP_S
from subnet.operator.supervisor import BEAT_S, MAX_CHAIN_SILENCE_S, START_EXTENSION_S
from tests.support.command_lines import check_line

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "examples" / "systemd").glob("*.service"))
PROGRAMS = ("/usr/local/bin/mesh-test", "/usr/local/bin/mesh")
VALUES = {
    "${CREDENTIALS_DIRECTORY}": "/run/credentials/mesh-node.service",
    "${MESH_PEER}": "/ip4/203.0.113.7/tcp/31330/p2p/"
    "12D3KooWBhV6kfbM9aDgJ2SpBsYVvVTkv2zRNHLrzmYCH4CDmwUQ",
}


def read_unit(path: Path) -> dict[str, list[str]]:
    """Return the values of each key, comments left out and continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found: dict[str, list[str]] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def verify(path: Path) -> str:
    """Return what systemd says of a unit; nothing if it finds no fault."""
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit {done.returncode}")


def copy(unit: Path, folder: Path, *, old: str = "", new: str = "") -> Path:
    """Return a copy whose programs exist on this machine."""
    text = unit.read_text().replace(old, new) if old else unit.read_text()
    for program in PROGRAMS:
        text = text.replace(f"{program} ", f"{shutil.which('true')} ")
    path = folder / unit.name
    path.write_text(text)
    return path


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in UNITS] == ["mesh-bootstrap", "mesh-gateway", "mesh-node"]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_no_fault_in_the_unit(unit: Path, tmp_path: Path) -> None:
    assert verify(copy(unit, tmp_path)) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WatchdogSec=180", "WatchdogSeconds=180"),
        ("Type=notify", "Type=notified"),
        ("TimeoutStopSec=600", "TimeoutStopSec=soon"),
        ("KillMode=mixed", "KillMode=gentle"),
    ],
)
def test_systemd_names_a_planted_fault(old: str, new: str, tmp_path: Path) -> None:
    unit = next(unit for unit in UNITS if unit.stem == "mesh-node")
    assert new.partition("=")[2] in (said := verify(copy(unit, tmp_path, old=old, new=new))) or (
        new.partition("=")[0] in said
    )


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_our_command_line_takes_what_the_unit_starts(unit: Path) -> None:
    keys = read_unit(unit)
    for text in (*keys["ExecStart"], *keys.get("ExecStop", ())):
        for name, value in VALUES.items():
            text = text.replace(name, value)
        program, *arguments = shlex.split(text.removeprefix("-"))
        assert program in PROGRAMS
        check_line(Path(program).name, arguments)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_times_of_the_unit_leave_room_for_ours(unit: Path) -> None:
    keys = read_unit(unit)
    assert keys["Type"] == ["notify"] and keys["Restart"] == ["always"]
    assert int(keys["WatchdogSec"][0]) >= 6 * BEAT_S
    assert int(keys["TimeoutStopSec"][0]) > STOP_S
    assert int(keys["TimeoutStartSec"][0]) > START_EXTENSION_S > 2 * BEAT_S
    if "gateway" not in unit.stem:
        # A reader that hangs is found by our own limit first, and said in the log.
        assert int(keys["WatchdogSec"][0]) > MAX_CHAIN_SILENCE_S


def test_the_node_waits_for_its_window_no_longer_than_systemd_lets_it() -> None:
    (unit,) = (unit for unit in UNITS if unit.stem == "mesh-node")
    keys = read_unit(unit)
    (line,) = keys["ExecStop"]
    assert line.startswith("-") and wait_for_restart_window.__name__.replace("_", "-") in line
    words = shlex.split(line)
    assert float(words[words.index("--timeout") + 1]) < float(keys["TimeoutStopSec"][0])
    assert "hotkey-password" in keys["LoadCredential"][0]
    assert "${CREDENTIALS_DIRECTORY}/hotkey-password" in keys["ExecStart"][0]
