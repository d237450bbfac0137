"""Only needed tensors are read, and the manifest finds the first difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mesh.assets import shipped_model_path
from mesh.errors import (
    DeviceUnavailable,
    LayerRangeOutsideModel,
    ManifestMismatch,
    ModelError,
    ModelFilesMissing,
    QuantisedCheckpoint,
)
from mesh.model import weights
from mesh.model.config import load_config
from mesh.model.files import resolve_known_model, resolve_model_folder
from mesh.model.manifest import build_manifest, check_manifest, decode_manifest
from mesh.model.tensors import locate_tensors, read_header
from mesh.model.weights import load_shard
from tests.support.calibrations import make_calibration
from tests.support.families import EXPERTS

CONSTANTS = {"challenge_positions": 16, "tolerance_bits": 12}
CALIBRATION = make_calibration(6)


class SpyReader:
    """safe_open that writes down which tensors were read."""

    def __init__(self, read, file, framework):
        self._read = read
        self._file = safe_open(file, framework=framework)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def get_tensor(self, name):
        self._read.append(name)
        return self._file.get_tensor(name)


@pytest.mark.parametrize("max_shard_size", ["5GB", "50KB"])
def test_only_needed_tensors_are_read(make_checkpoint, monkeypatch, max_shard_size):
    folder = make_checkpoint(max_shard_size=max_shard_size)
    read: list[str] = []
    monkeypatch.setattr(
        weights, "safe_open", lambda file, framework: SpyReader(read, file, framework)
    )
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    load_shard(located, config, start=2, end=4)
    assert {name.split(".")[2] for name in read} == {"2", "3"}
    read.clear()
    load_shard(located, config, start=5, end=6)
    assert {n for n in read if not n.startswith("model.layers.5.")} == {
        "model.norm.weight",
        "lm_head.weight",
    }


def test_only_files_of_the_range_must_be_there(make_checkpoint, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(make_checkpoint(max_shard_size="50KB"), folder)
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    kept = {file for name, file in index.items() if name.startswith("model.layers.3.")}
    for file in set(index.values()) - kept:
        (folder / file).unlink()
    shard = load_shard(located, config, start=3, end=4)
    assert shard.embedding is None
    assert shard.head is None
    with pytest.raises(ModelFilesMissing):
        load_shard(located, config, start=0, end=6)


def test_tied_head_shares_the_embedding(make_checkpoint):
    folder = make_checkpoint(tie_word_embeddings=True)
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    whole = load_shard(located, config, start=0, end=6)
    assert whole.head is whole.embedding
    last = load_shard(located, config, start=5, end=6)
    assert last.embedding is None
    assert last.head is not None


@pytest.mark.parametrize("quant_type", ["none", "int8", "int4"])
def test_a_stack_of_experts_has_one_hash_however_the_files_are_cut(make_checkpoint, quant_type):
    whole, cut = (
        make_manifest(
            make_checkpoint("Qwen3MoeForCausalLM", max_shard_size=size, **EXPERTS), quant_type
        )[2]
        for size in ("5GB", "50KB")
    )
    assert whole.manifest_hash == cut.manifest_hash
    name = "model.layers.4.mlp.experts.down_proj.weight"
    assert whole.tensors[name][:2] == (DTYPES[quant_type], (8, 48, 32))
    assert whole.tensors["model.layers.4.mlp.gate.weight"][0] == "F32"


def test_a_changed_or_reshaped_expert_is_named(make_checkpoint, tmp_path):
    located, config, manifest = make_manifest(make_checkpoint("Qwen3MoeForCausalLM", **EXPERTS))
    check(manifest, located, config)
    changed = tmp_path / "changed"
    shutil.copytree(located.path, changed)
    other, name = resolve_model_folder(str(changed)), "model.layers.4.mlp.experts.5.up_proj.weight"
    tensors = load_file(changed / "model.safetensors")
    tensors[name][3, 3] += 1e-3
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(
        ManifestMismatch, match=r"SHA-256 of model\.layers\.4\.mlp\.experts\.up_proj"
    ):
        check(manifest, other, config)
    check(manifest, other, config, start=0, end=4)
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(ModelError, match=r"experts\.5\.up_proj.*but.*experts\.0\.up_proj"):
        load_shard(other, config, start=4, end=5)


def test_an_index_of_many_experts_is_read_and_one_without_end_is_not(
    make_checkpoint, tmp_path, monkeypatch
):
    folder = tmp_path / "many"
    shutil.copytree(make_checkpoint(max_shard_size="50KB"), folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= {f"{number:0100}": "x.safetensors" for number in range(20_000)}
    path.write_text(json.dumps(index))
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    assert path.stat().st_size > 2 << 20
    load_shard(located, config, start=2, end=3)
    monkeypatch.setattr("mesh.model.tensors.MAX_INDEX_BYTES", 2 << 20)
    with pytest.raises(ModelError, match="index.json is larger than"):
        load_shard(located, config, start=2, end=3)


def test_range_dtype_and_shape_are_checked(make_checkpoint):
    folder = make_checkpoint()
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    with pytest.raises(LayerRangeOutsideModel):
        load_shard(located, config, start=0, end=7)
    with pytest.raises(ModelError, match="int3"):
        load_shard(located, config, start=0, end=1, dtype="int3")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float8_e4m3fn, "F8_E4M3"), (torch.float64, "F64"), (torch.int8, "I8")],
)
def test_weights_stored_in_another_type_are_refused_by_name(make_checkpoint, tmp_path, dtype, name):
    folder = tmp_path / "other"
    shutil.copytree(make_checkpoint(), folder)
    tensors = load_file(folder / "model.safetensors")
    changed = "model.layers.2.mlp.up_proj.weight"
    tensors[changed] = tensors[changed].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    with pytest.raises(QuantisedCheckpoint, match=f"{changed} is stored as {name}"):
        load_shard(located, config, start=2, end=3)
    with pytest.raises(QuantisedCheckpoint, match=name):
        build_manifest(
            located,
            config,
            model_name="x",
            revision="local",
            constants=CONSTANTS,
            calibration=CALIBRATION,
        )
    load_shard(located, config, start=0, end=1)


@pytest.mark.parametrize("is_cut", [False, True], ids=["one file", "several"])
def test_packed_integers_of_awq_and_gptq_are_refused_by_name(make_checkpoint, tmp_path, is_cut):
    """Older tools leave no quantization_config in config.json."""
    folder = tmp_path / "packed"
    shutil.copytree(make_checkpoint(), folder)
    tensors = load_file(folder / "model.safetensors")
    taken = tensors.pop("model.layers.2.mlp.up_proj.weight")
    tensors["model.layers.2.mlp.up_proj.qweight"] = taken.to(torch.int32)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / ("part.safetensors" if is_cut else "model.safetensors"))
    if is_cut:
        index = {"weight_map": dict.fromkeys(tensors, "part.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    with pytest.raises(QuantisedCheckpoint, match=r"layers\.2\.mlp\.up_proj\.qweight .* GPTQ"):
        load_shard(located, config, start=2, end=3)


def test_a_device_that_is_not_there_is_said_before_weights_are_read(make_checkpoint, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(make_checkpoint(), folder)
    (folder / "model.safetensors").unlink()
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    with pytest.raises(DeviceUnavailable, match="cuda:63"):
        load_shard(located, config, start=0, end=1, device="cuda:63")


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_truncated_or_lying_safetensors_header_is_refused(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(((1 << 40).to_bytes(8, "little") + b"{}" * 10)[:size])
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_header(path)


def test_deeply_nested_safetensors_header_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    header = b"[" * 200_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="broken header"):
        read_header(path)


DTYPES = {"none": "F32", "int8": "I8", "int4": "I4"}


def make_manifest(folder, quant_type="none"):
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    manifest = build_manifest(
        located,
        config,
        model_name="tiny",
        revision="1",
        constants=CONSTANTS,
        calibration=CALIBRATION,
        quant_type=quant_type,
    )
    return located, config, manifest


def test_manifest_is_canonical_and_survives_the_wire(make_checkpoint):
    _, _, manifest = make_manifest(make_checkpoint())
    assert decode_manifest(manifest.body) == manifest
    assert b" " not in manifest.body
    with pytest.raises(ModelError, match="canonical"):
        decode_manifest(manifest.body + b"\n")
    for broken in (b"", b"{}", b"[1]", b"\xff", b'{"format":1}'):
        with pytest.raises(ModelError):
            decode_manifest(broken)
    body = manifest.body
    assert b'"format":2' in body
    endless = b'"num_blocks":1e999'
    for changed in (
        body.replace(b'"format":2', b'"formed":2'),
        body.replace(b'"format":2', b'"format":3'),
        body.replace(b'"num_blocks":%d' % manifest.num_layers, endless),
        b"[" * 200_000,
    ):
        assert changed != body
        with pytest.raises(ModelError):
            decode_manifest(changed)


def test_manifest_does_not_depend_on_how_the_files_are_cut(make_checkpoint):
    whole = make_manifest(make_checkpoint())[2]
    cut = make_manifest(make_checkpoint(max_shard_size="50KB"))[2]
    assert whole.manifest_hash == cut.manifest_hash


def check(manifest, located, config, **changes):
    arguments = {
        "start": 0,
        "end": 6,
        "served_dtype": "float32",
        "constants": CONSTANTS,
    }
    check_manifest(manifest, located, config, **{**arguments, **changes})


def test_changed_weight_is_named(make_checkpoint, tmp_path):
    located, config, manifest = make_manifest(make_checkpoint())
    check(manifest, located, config)
    changed = tmp_path / "changed"
    shutil.copytree(located.path, changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["model.layers.4.mlp.up_proj.weight"][3, 3] += 1e-3
    save_file(tensors, changed / "model.safetensors")
    other = resolve_model_folder(str(changed))
    with pytest.raises(ManifestMismatch, match=r"SHA-256 of model\.layers\.4\.mlp\.up_proj"):
        check(manifest, other, config)
    check(manifest, other, config, start=0, end=4)


def test_rounding_dtype_and_other_constants_are_named(make_checkpoint):
    located, config, manifest = make_manifest(make_checkpoint())
    with pytest.raises(ManifestMismatch, match="bfloat16 would round"):
        check(manifest, located, config, served_dtype="bfloat16")
    with pytest.raises(ManifestMismatch, match=r"constants\.tolerance_bits"):
        check(manifest, located, config, constants={**CONSTANTS, "tolerance_bits": 11})


def test_path_outside_the_folder_in_the_index_is_refused(make_checkpoint, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(make_checkpoint(max_shard_size="50KB"), folder)
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a safetensors file"):
        located = resolve_model_folder(str(folder))
        locate_tensors(located, load_config(folder), ["model.norm.weight"])


def test_the_shipped_model_is_known_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_known_model("mesh-tiny").path == shipped_model_path()
