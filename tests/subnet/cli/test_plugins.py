"""``mesh plugins``, and plug-ins on the lines of ``mesh manifest`` and ``mesh simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.assets import shipped_model_path
from mesh.model.manifest import decode_manifest
from mesh.plugins import PluginKind
from tests.subnet.cli.test_mesh import run
from tests.subnet.plugins.conftest import install as install

SCORER = "def score(hosters):\n    return [hoster.built_in for hoster in hosters]\n"


@pytest.fixture
def planted(install: Any) -> None:
    install("planted", SCORER, scorers="planted = planted:score")


def test_it_lists_what_is_installed(planted: None) -> None:
    code, out, _ = run("plugins", "--json")
    (row,) = [row for row in json.loads(out)["plugins"] if row["name"] == "planted"]
    assert code == 0 and row["kind"] == "scorer" and row["version"] == "1.0"
    assert f"scorer  planted  1.0  {row['digest']}" in run("plugins")[1]


def test_a_manifest_names_the_plug_in_and_has_another_hash(planted: None, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    model = str(shipped_model_path())
    code, out, _ = run("manifest", model, "--scorer", "planted", "--out", str(file))
    made = decode_manifest(file.read_bytes())
    assert (code, out.strip()) == (0, made.manifest_hash.hex())
    assert made.plugins[PluginKind.SCORER].name == "planted"
    assert out != run("manifest", model)[1]


@pytest.mark.parametrize(
    "line",
    [
        ("manifest", str(shipped_model_path()), "--scorer", "gone"),
        ("simulate", "--economics", "--epochs", "1", "--scorer", "gone"),
        ("localnet", "--scorer", "gone"),
    ],
)
def test_a_name_that_is_not_installed_is_said_before_anything_slow(line: tuple[str, ...]) -> None:
    code, _, err = run(*line)
    assert code == 1
    assert "error: scorer gone: no such plug-in is installed" in err
    assert "hint: install the package that has it; `mesh plugins` lists" in err


def test_a_scorer_without_economics_is_a_wrong_line() -> None:
    assert run("simulate", "--scorer", "x")[0] == 2


@pytest.mark.parametrize("fault", ["kill", "kill:9@reveal", "drop:1@reveal", "kill:1@dawn"])
def test_a_fault_that_cannot_be_is_a_wrong_line(fault: str) -> None:
    code, _, err = run("localnet", "--fault", fault)
    assert code == 2 and err.startswith("error: --fault: ") and "hint: " in err
