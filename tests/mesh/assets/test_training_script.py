"""The script that makes the shipped model: it writes what it has checked, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from consensus.protocol_params import MAINNET
from mesh.assets import load_questions
from train_shipped_model import main

ENTRIES = [
    {"question": "Who proposes?", "also_asked": [], "answer": "The elected validator proposes."},
    {"question": "Who commits?", "also_asked": [], "answer": "Every hoster commits."},
]


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate without the runs of other instruction sets, which load torch anew."""
    monkeypatch.setattr("mesh.model.calibrate.INSTRUCTION_SETS", {})


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(ENTRIES))
    return file


def test_an_untrained_model_is_not_written(tmp_path, questions_file, capsys) -> None:
    out = tmp_path / "checkpoint"
    status = main(["--out", str(out), "--questions", str(questions_file), "--passes", "1"])
    assert status == 1
    assert not out.exists()
    assert "error: an answer token leads by" in capsys.readouterr().err


def test_a_trained_model_is_written_with_its_questions(tmp_path, questions_file, capsys) -> None:
    out = tmp_path / "checkpoint"
    status = main(["--out", str(out), "--questions", str(questions_file), "--passes", "60"])
    assert status == 0
    assert (out / "model.safetensors").is_file()
    assert load_questions(out / "questions.json") == load_questions(questions_file)
    report = json.loads(capsys.readouterr().out)
    assert report["margins"]["smallest"] >= 1.0
    assert min(report["calibration"]["cheats"]["int8"]) > 10 * 10**12 >> MAINNET.tolerance_bits


def test_a_model_at_which_cheats_cannot_be_told_is_not_written(
    tmp_path, questions_file, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("mesh.model.margins.MIN_MARGIN", 10**9)
    out = tmp_path / "checkpoint"
    status = main(["--out", str(out), "--questions", str(questions_file), "--passes", "60"])
    assert status == 1
    assert not out.exists()
    assert "error: block 0: honest machines differ" in capsys.readouterr().err
