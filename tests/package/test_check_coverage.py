from __future__ import annotations

import json
from pathlib import Path

import pytest

import check_coverage


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    path = tmp_path / ".coverage.json"
    files = {
        "keys/peer.py": {"executed_lines": [1, 2, 3, 7], "missing_lines": []},
        "mesh/api/app.py": {"executed_lines": [1, 2, 9], "missing_lines": [3, 4, 5, 8]},
        "meshed/no_package_of_ours.py": {"executed_lines": [], "missing_lines": [1]},
    }
    path.write_text(json.dumps({"files": files}))
    return path


def test_floors_that_are_reached_pass(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_coverage.main(["total=58", "keys=100", "mesh=42"], counted=counted) == 0
    assert capsys.readouterr().out.splitlines() == [
        "total=58: 58.33 % of lines",
        "keys=100: 100.00 % of lines",
        "mesh=42: 42.86 % of lines",
    ]


@pytest.mark.parametrize("floor", ["total=59", "mesh=43", "devchain=1"])
def test_a_floor_that_is_not_reached_is_named(
    floor: str, counted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_coverage.main(["keys=100", floor], counted=counted) == 1
    assert capsys.readouterr().err.startswith(f"{floor} is not reached. Fix: ")


def test_lines_that_did_not_run_are_listed(
    counted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_coverage.main(["--missing"], counted=counted) == 0
    assert "mesh/api/app.py: 3-5, 8\n" in capsys.readouterr().out


def test_nothing_counted_is_no_pass(tmp_path: Path) -> None:
    assert check_coverage.main(["total=1"], counted=tmp_path / "absent") == 2
