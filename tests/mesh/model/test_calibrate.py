"""Calibration finds scales and margins, and refuses models at which honest work cannot be told."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from consensus.challenge import ModelShape
from consensus.protocol_params import MAINNET
from mesh.errors import CalibrationFailed, MarginTooSmall
from mesh.model import calibrate as module
from mesh.model.calibrate import (
    calibrate,
    choose_scale,
    compute_distance,
    load_tasks,
    round_to_int4,
    round_to_int8,
    save_tasks,
)
from mesh.model.config import load_config
from mesh.model.files import ModelFolder, resolve_model_folder
from mesh.model.margins import check_margins
from subnet.hosting.manifest import calibrate_model, draw_calibration_tasks
from tests.support.families import EXPERTS

SHAPE = ModelShape(num_layers=6, hidden_size=48, vocab_size=131)
TASKS = draw_calibration_tasks(SHAPE, MAINNET)


@pytest.fixture
def no_processes(monkeypatch):
    """Without the runs of other instruction sets, which load torch anew."""
    monkeypatch.setattr(module, "INSTRUCTION_SETS", {})


def measure(folder, quant_type="none", tasks=TASKS[:2]):
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    return calibrate(
        located, config, tasks, fixed_point_bits=20, value_bound_bits=11, quant_type=quant_type
    )


def test_every_layer_is_measured_in_every_way(make_checkpoint, no_processes):
    threads = torch.get_num_threads()
    found = measure(make_checkpoint())
    assert torch.get_num_threads() == threads
    assert len(found.scales) == len(found.honest) == 7
    assert set(found.variants) >= {"threads-1", "threads-2", "batch", "fused-attention"}
    assert list(found.cheats) == ["bfloat16", "int8", "int4", "skipped"]
    assert all(len(row) == 7 for row in found.cheats.values())
    assert max(found.honest) < 4 * 10**6
    assert max(found.cheats["skipped"]) <= 10**12
    for layer in range(7):
        assert found.cheats["int8"][layer] < found.cheats["int4"][layer]
    # This narrow model adds little: its answers need larger scales than a trained model's.
    assert min(found.scales[:6]) > 4


def test_other_instruction_sets_answer_in_processes_of_their_own(make_checkpoint, monkeypatch):
    only = {"sse4": module.INSTRUCTION_SETS["sse4"]}
    monkeypatch.setattr(module, "INSTRUCTION_SETS", only)
    found = measure(make_checkpoint(), tasks=TASKS[:1])
    assert "sse4" in found.variants
    assert max(found.honest) < 4 * 10**6


def test_a_process_that_fails_says_why(make_checkpoint, monkeypatch):
    monkeypatch.setattr(module, "INSTRUCTION_SETS", {"broken": {"PYTHONHOME": "/nonexistent"}})
    with pytest.raises(CalibrationFailed, match="measuring with broken failed"):
        measure(make_checkpoint(), tasks=TASKS[:1])


def test_weights_that_are_not_here_yet_are_downloaded_first(
    make_checkpoint, tmp_path, no_processes, monkeypatch
):
    whole = make_checkpoint()
    shutil.copytree(whole, tmp_path / "hub")
    file = tmp_path / "hub" / "model.safetensors"
    file.unlink()
    monkeypatch.setattr(
        "mesh.model.files._download", lambda folder, name: shutil.copy(whole / name, file)
    )
    folder = ModelFolder(tmp_path / "hub", "owner/model", "main", hub_name="owner/model")
    found = calibrate(
        folder, load_config(folder.path), TASKS[:1], fixed_point_bits=20, value_bound_bits=11
    )
    assert len(found.scales) == 7


@pytest.mark.parametrize("quant_type", ["none", "int8", "int4"])
def test_cheats_with_experts_can_be_told(make_checkpoint, no_processes, quant_type):
    folder = make_checkpoint("Qwen3MoeForCausalLM", **EXPERTS)
    check_margins(measure(folder, quant_type, tasks=TASKS[:1]), tolerance_bits=12)


@pytest.mark.parametrize("quant_type", ["int8", "int4"])
def test_what_a_subnet_serves_is_no_cheat_there(make_checkpoint, no_processes, quant_type):
    found = measure(make_checkpoint(), quant_type, tasks=TASKS[:1])
    every = ["bfloat16", "int8", "int4", "skipped"]
    assert list(found.cheats) == [name for name in every if name != quant_type]
    check_margins(found, tolerance_bits=12)


def change_weights(folder, target, change):
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    save_file(
        {name: change(name, value) for name, value in tensors.items()}, target / "model.safetensors"
    )
    return target


def test_a_model_at_which_a_cheat_cannot_be_told_is_refused(
    make_checkpoint, tmp_path, no_processes
):
    """Weights that int8 holds exactly: serving int8 is then no cheat, and no margin either."""

    def round_block(name, value):
        return round_to_int8(value) if "layers.2." in name and value.dim() == 2 else value

    folder = change_weights(make_checkpoint(), tmp_path / "rounded", round_block)
    with pytest.raises(MarginTooSmall, match="block 2: the cheat int8"):
        calibrate_model(resolve_model_folder(str(folder)), load_config(folder), params=MAINNET)


def test_a_layer_that_adds_nothing_is_refused(make_checkpoint, tmp_path, no_processes):
    def silence(name, value):
        is_output = "layers.3." in name and ("o_proj" in name or "down_proj" in name)
        return torch.zeros_like(value) if is_output else value

    folder = change_weights(make_checkpoint(), tmp_path / "silent", silence)
    with pytest.raises(CalibrationFailed, match="block 3 adds nothing"):
        measure(folder)


@given(
    exponent=st.integers(-30, 8),
    mantissa=st.floats(1.0, 2.0),
    shape=st.floats(1.0, 40.0),
    other=st.floats(1.0, 1.5),
)
def test_a_unit_is_fine_enough_and_no_value_passes_the_bound(exponent, mantissa, shape, other):
    answer = np.full(2000, mantissa * 2.0**exponent, np.float32)
    answer[7] *= np.float32(shape)
    answers = [answer, answer * np.float32(other)]
    scale = choose_scale(answers, "block 1", 20, 11)
    unit = 2.0 ** -(20 + scale)
    rms = min(math.sqrt(float(np.mean(a.astype(np.float64) ** 2))) for a in answers)
    assert unit <= 2.0**-22 * rms
    assert max(float(np.abs(a).max()) for a in answers) * 2.0**scale < 2**11


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), 1e-30])
def test_answers_that_no_scale_fits_are_refused(value):
    with pytest.raises(CalibrationFailed, match="block 1"):
        choose_scale([np.full(9, value, np.float32)], "block 1", 20, 11)


def test_one_value_far_above_all_others_is_refused():
    spike = np.zeros(1 << 22, np.float32)
    spike[0] = 1.0
    with pytest.raises(CalibrationFailed, match="no scale"):
        choose_scale([spike], "block 1", 20, 11)


def test_tasks_survive_the_way_into_another_process(tmp_path):
    flat = [task for challenge in TASKS for task in challenge]
    save_tasks(tmp_path / "tasks.npz", flat)
    for mine, theirs in zip(flat, load_tasks(tmp_path / "tasks.npz"), strict=True):
        assert mine.layer == theirs.layer
        for name in ("hidden", "token_ids", "head_rows"):
            one, other = getattr(mine, name), getattr(theirs, name)
            assert (one is None and other is None) or np.array_equal(one, other)


def test_the_tasks_are_the_same_on_every_machine():
    assert len(TASKS) == 3
    again = draw_calibration_tasks(SHAPE, MAINNET)
    assert np.array_equal(again[1][4].hidden, TASKS[1][4].hidden)
    assert not np.array_equal(TASKS[0][4].hidden, TASKS[1][4].hidden)


def test_int4_rounds_in_groups_of_thirty_two_whatever_the_width():
    matrix = torch.randn(5, 70, generator=torch.Generator().manual_seed(1))
    rounded = round_to_int4(matrix)
    assert rounded.shape == matrix.shape
    assert len(torch.unique(rounded[0, :32])) <= 15
    assert 0.02 < float((rounded - matrix).norm() / matrix.norm()) < 0.2
    assert torch.equal(round_to_int4(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_distance_from_nothing_is_infinite():
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert compute_distance(zeros, ones) == 1
    assert compute_distance(ones, zeros) == math.inf
    assert compute_distance(zeros, zeros) == 0
    assert compute_distance(ones * np.float32("nan"), ones) == math.inf
