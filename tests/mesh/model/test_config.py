"""What config.json may say, and what is refused by name."""

from __future__ import annotations

import json
import math
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
from mesh.model.manifest import describe_architecture
from tests.support.families import EXPERTS

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

PHI = {
    **FIELDS,
    "architectures": ["Phi3ForCausalLM"],
    "original_max_position_embeddings": 128,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0] * 7 + [2.5],
        "long_factor": [4.0] * 8,
    },
}
MOE = {**FIELDS, "architectures": ["Qwen3MoeForCausalLM"], **EXPERTS}


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
    with pytest.raises(UnknownArchitecture, match="rotary scaling dynamic"):
        parse_config({**FIELDS, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}})


@pytest.mark.parametrize("method", ["fp8", "awq", "gptq"])
def test_a_quantised_checkpoint_is_refused_by_its_method(method):
    with pytest.raises(QuantisedCheckpoint, match=method):
        parse_config({**FIELDS, "quantization_config": {"quant_method": method}})


def test_an_empty_quantization_config_means_none():
    assert parse_config({**FIELDS, "quantization_config": None}).num_layers == 4


def test_sliding_window_shortens_the_context():
    mistral = {**FIELDS, "architectures": ["MistralForCausalLM"], "sliding_window": 128}
    assert parse_config(mistral).max_context == 128


def test_yarn_lengthens_the_context_and_longrope_ends_where_it_would_turn_cached_keys():
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    config = parse_config({**FIELDS, "rope_scaling": yarn})
    assert (config.max_context, config.rope.original_context) == (1024, 256)
    assert config.rope.attention_factor == pytest.approx(1 + 0.1 * math.log(4))
    assert parse_config(PHI).max_context == 128
    assert parse_config({**PHI, "sliding_window": 100}).max_context == 100
    # Early files of Phi-3 call it so.
    for name in ("su", "yarn"):
        early = {**PHI["rope_scaling"], "type": name}
        assert parse_config({**PHI, "rope_scaling": early}) == parse_config(PHI)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "yarn", "factor": -1.0}, "factor must be above 0"),
        ({"type": "linear", "factor": 0.0}, "factor must be above 0"),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 0}, "low_freq_factor must be"),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 4}, "low_freq_factor must be"),
        ({"type": "yarn", "factor": 4.0, "rope_theta": 1.0}, "rope_theta must be above 1"),
        ({"type": "yarn", "factor": 4.0, "beta_fast": -2}, "beta_fast must be above 0"),
        ({"type": "yarn", "factor": 4.0, "mscale": -9, "mscale_all_dim": 1}, "mscale must be"),
        ({"type": "longrope"}, "short_factor must be a list of 8 numbers"),
        ({"type": "longrope", "short_factor": [1.0] * 7}, "list of 8 numbers"),
        ({"type": "longrope", "short_factor": [1.0] * 7 + [0]}, "short_factor must be above 0"),
        ({"type": "longrope", "short_factor": [1.0] * 7 + ["1"]}, "must be a number"),
        ({"type": ["yarn"]}, "rotary scaling"),
    ],
)
def test_impossible_rotary_scaling_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        parse_config({**FIELDS, "rope_scaling": change})


def test_a_new_kind_of_number_changes_no_manifest():
    described = describe_architecture(parse_config(FIELDS))
    assert "experts" not in described
    assert set(described["rope"]) == {
        "theta",
        "kind",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_context",
    }
    found = describe_architecture(parse_config(PHI))["rope"]
    assert found["divisors"] == ["1.0"] * 7 + ["2.5"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mlp_only_layers": [1]}, UnknownArchitecture, "layers that have no experts"),
        ({"decoder_sparse_step": 2}, UnknownArchitecture, "layers that have no experts"),
        ({"num_experts_per_tok": 9}, ModelError, "takes 9 of 8 experts"),
        ({"num_experts": 10**6}, ModelError, "num_experts must be from 1"),
        ({"moe_intermediate_size": None}, ModelError, "moe_intermediate_size"),
    ],
)
def test_experts_that_are_not_served_are_refused(change, error, message):
    assert parse_config(MOE).intermediate_size == 32
    with pytest.raises(error, match=message):
        parse_config({**MOE, **change})


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
