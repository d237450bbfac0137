"""Which models this machine can serve by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path
from mesh.model import known_models, packaged
from mesh.model.known_models import MAX_FOUND, list_known_models
from mesh.model.packaged import SMOLLM2


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Neither this user's downloads nor the Hugging Face cache count."""
    monkeypatch.setattr(packaged, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def find(found, name):
    (model,) = [model for model in found if model.name == name]
    return model


def test_the_shipped_model_comes_first_and_a_package_says_what_it_would_download():
    shipped, package = list_known_models([])
    assert (shipped.name, shipped.num_layers, shipped.problem) == (SHIPPED_MODEL_NAME, 8, None)
    assert shipped.size_bytes == (shipped_model_path() / "model.safetensors").stat().st_size
    assert (package.name, package.size_bytes, package.num_layers) == (SMOLLM2.name, 0, None)
    assert "Apache-2.0" in package.note and "93 MB" in package.note


def test_folders_and_gguf_files_are_found_and_what_is_wrong_is_said(elsewhere):
    models = elsewhere / "models"
    shutil.copytree(shipped_model_path(), models / "copies" / "tiny")
    (models / "bad").mkdir(parents=True)
    (models / "bad" / "config.json").write_text(json.dumps({"architectures": ["Gpt9ForCausalLM"]}))
    (models / "bad" / "model.safetensors").write_bytes(b"")
    (models / "broken.gguf").write_bytes(b"GGUF and nothing")
    (models / ".hidden").mkdir()
    (models / "deep" / "er" / "than" / "this").mkdir(parents=True)
    shutil.copytree(shipped_model_path(), models / "deep" / "er" / "than" / "this" / "tiny")
    found = list_known_models([models])[2:]
    assert [Path(model.name).name for model in found] == ["bad", "broken.gguf", "tiny"]
    assert find(found, str(models / "copies" / "tiny")).num_layers == 8
    assert "Gpt9ForCausalLM" in (find(found, str(models / "bad")).problem or "")
    assert find(found, str(models / "broken.gguf")).problem


def test_a_folder_that_links_to_itself_and_one_that_is_gone_do_no_harm(elsewhere):
    (elsewhere / "loop").mkdir()
    (elsewhere / "loop" / "again").symlink_to(elsewhere / "loop")
    assert len(list_known_models([elsewhere / "loop", elsewhere / "gone"])) == 2


def test_the_list_is_bounded(elsewhere, monkeypatch):
    monkeypatch.setattr(known_models, "MAX_FOUND", 4)
    for number in range(9):
        (elsewhere / f"{number}.gguf").write_bytes(b"")
    assert len(list_known_models([elsewhere])) == 4 < MAX_FOUND


def test_the_hugging_face_cache_is_listed_by_repository(elsewhere):
    repository = elsewhere / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(shipped_model_path(), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs").mkdir()
    (elsewhere / "hub" / "datasets--owner--other" / "snapshots").mkdir(parents=True)
    model = find(list_known_models([]), "owner/tiny")
    assert (model.source, model.num_layers, model.problem) == ("hub", 8, None)
