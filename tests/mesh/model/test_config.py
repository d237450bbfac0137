"""What config.json may say, and what is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mesh.errors import (
    LayerRangeOutsideModel,
    ModelError,
    ModelFilesMissing,
    QuantisedCheckpoint,
    UnknownArchitecture,
)
from mesh.model.config import load_config, parse_config
from mesh.model.files import resolve_model_folder

FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}


def test_old_and_new_rope_layouts_read_the_same():
    llama3 = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    old = parse_config({**FIELDS, "rope_theta": 500000.0, "rope_scaling": llama3})
    new = parse_config({**FIELDS, "rope_parameters": {**llama3, "rope_theta": 500000.0}})
    assert old.rope == new.rope
    assert old.rope.kind == "llama3"
    assert old.rope.factor == 32.0


def test_generation_config_adds_end_tokens():
    config = parse_config(FIELDS, generation={"eos_token_id": [2, 9]})
    assert config.eos_token_ids == (2, 9)
    assert parse_config(FIELDS).eos_token_ids == (2,)


def test_unknown_model_architecture_is_refused_by_name():
    with pytest.raises(UnknownArchitecture, match="GPT2LMHeadModel"):
        parse_config({**FIELDS, "architectures": ["GPT2LMHeadModel"]})
    with pytest.raises(UnknownArchitecture, match="yarn"):
        parse_config({**FIELDS, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})


@pytest.mark.parametrize("method", ["fp8", "awq", "gptq"])
def test_a_quantised_checkpoint_is_refused_by_its_method(method):
    with pytest.raises(QuantisedCheckpoint, match=method):
        parse_config({**FIELDS, "quantization_config": {"quant_method": method}})


def test_an_empty_quantization_config_means_none():
    assert parse_config({**FIELDS, "quantization_config": None}).num_layers == 4


def test_sliding_window_shortens_the_context():
    mistral = {**FIELDS, "architectures": ["MistralForCausalLM"], "sliding_window": 128}
    assert parse_config(mistral).max_context == 128


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", -1),
        ("num_hidden_layers", 10**9),
        ("vocab_size", True),
        ("vocab_size", "100"),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
    ],
)
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ModelError):
        parse_config({**FIELDS, name: value})


def test_layer_range_outside_model_is_refused():
    config = parse_config(FIELDS)
    config.check_layer_range(0, 4)
    for start, end in ((0, 5), (3, 3), (-1, 2), (4, 5)):
        with pytest.raises(LayerRangeOutsideModel):
            config.check_layer_range(start, end)


def test_missing_folder_and_broken_config_say_what_to_do(tmp_path):
    with pytest.raises(ModelFilesMissing, match="check the path"):
        resolve_model_folder(str(tmp_path / "nothing"))
    with pytest.raises(ModelFilesMissing, match=r"no config\.json"):
        resolve_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not JSON"):
        load_config(tmp_path)


IN_CACHE = """
import sys
from mesh.errors import ModelFilesMissing
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
folder = resolve_model_folder("TinyLlama/TinyLlama-1.1B-Chat-v1.0")
print(folder.revision, load_config(folder.path).num_layers, "torch" in sys.modules)
try:
    resolve_model_folder("nobody/nothing")
except ModelFilesMissing as error:
    print("missing", error)
"""


def test_model_is_found_in_the_hugging_face_cache_offline_and_without_torch(
    make_checkpoint, tmp_path
):
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--TinyLlama--TinyLlama-1.1B-Chat-v1.0"
    shutil.copytree(make_checkpoint(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="ascii")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", IN_CACHE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found, missing = done.stdout.splitlines()
    assert found == f"{commit} 6 False"
    assert missing.startswith("missing nobody/nothing is not in the Hugging Face cache")


def test_deeply_nested_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match="not JSON"):
        load_config(tmp_path)


def test_config_larger_than_the_limit_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"x": "y" * (1 << 20)}), encoding="utf-8")
    with pytest.raises(ModelError, match="larger"):
        load_config(tmp_path)
