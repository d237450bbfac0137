"""A GGUF file is served as transformers reads it, and what is not known is refused by name."""

from __future__ import annotations

import shutil
import struct
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from mesh.errors import (
    ManifestMismatch,
    ModelError,
    ModelFilesMissing,
    QuantisedCheckpoint,
    UnknownArchitecture,
)
from mesh.model import gguf_file
from mesh.model.attention import Segment
from mesh.model.auditor import Auditor
from mesh.model.config import load_config
from mesh.model.files import check_has_weights, resolve_model_folder
from mesh.model.gguf_config import compute_llama3_factors
from mesh.model.gguf_file import read_gguf
from mesh.model.gguf_tensors import GgufRows, can_dequantise
from mesh.model.llama import ShardRunner
from mesh.model.manifest import build_manifest, check_manifest
from mesh.model.weights import load_shard
from tests.support.calibrations import make_calibration
from tests.support.families import EXPERTS, LONGROPE, PHI, YARN
from tests.support.gguf_files import write_gguf

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8}
"""Rows that blocks of 32 values divide."""
PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 131, 40)]
CONSTANTS = {"challenge_positions": 16, "tolerance_bits": 12}
QUANTISABLE = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)
READABLE = [kind for kind in Kind if can_dequantise(kind)]
UNREADABLE = [kind for kind in Kind if not can_dequantise(kind)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def load_file_of(path, start=0, end=6, **options):
    return load_shard(
        resolve_model_folder(str(path)), load_config(path), start=start, end=end, **options
    )


def compute_logits(path, split=((0, 6),), **options):
    runners = [ShardRunner(load_file_of(path, *part, **options), cache_tokens=64) for part in split]
    segments = [Segment(0, len(PROMPT), range(4), 0)]
    with torch.inference_mode():
        x = runners[0].embed(PROMPT)
        for runner, (start, end) in zip(runners, split, strict=True):
            x = runner.forward(x, segments, start=start, end=end)
        return runners[-1].compute_logits(x)


def read_with_transformers(path):
    """Return the model that transformers reads from the file, with its own dequantised values."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # These it leaves out, and takes the defaults of Qwen 3 and Phi-3.
    left_out = {"head_dim": 8, "moe_intermediate_size": 32, "pad_token_id": 0}
    described = left_out | load_gguf_checkpoint(str(path))["config"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**described)).float().eval()
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing = model.load_state_dict(tensors, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


@pytest.mark.parametrize("split", [((0, 6),), ((0, 2), (2, 6))], ids=["one", "two"])
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}),
        ("MistralForCausalLM", {"sliding_window": None}),
        ("Qwen2ForCausalLM", {}),
        ("Qwen3ForCausalLM", {}),
        ("Qwen3MoeForCausalLM", EXPERTS),
        ("Phi3ForCausalLM", PHI),
    ],
)
def test_logits_equal_transformers_reading_of_the_same_file(
    make_checkpoint, tmp_path, architecture, changes, split
):
    folder = make_checkpoint(architecture, **WIDE, **changes)
    path = write_gguf(folder, tmp_path / "model.gguf", kind=Kind.Q8_0)
    with torch.inference_mode():
        expected = read_with_transformers(path)(torch.tensor([PROMPT])).logits[0]
    assert (compute_logits(path, split) - expected).abs().max() < 1e-4


def test_query_and_key_biases_are_turned_back_too(make_checkpoint, tmp_path, load_reference):
    folder = make_checkpoint(attention_bias=True, mlp_bias=True, num_key_value_heads=6)
    path = write_gguf(folder, tmp_path / "model.gguf")
    with torch.inference_mode():
        expected = load_reference(folder)(torch.tensor([PROMPT])).logits[0]
    assert (compute_logits(path) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Qwen3ForCausalLM", {"rope_parameters": YARN}),
        ("Qwen3MoeForCausalLM", {**EXPERTS, "rope_parameters": YARN}),
        (
            "Phi3ForCausalLM",
            {**PHI, "rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_a_file_is_the_model_of_its_checkpoint(make_checkpoint, tmp_path, architecture, changes):
    """The configuration, and each tensor's values: experts stacked, rotary scaling too."""
    folder = make_checkpoint(architecture, **WIDE, **changes)
    path = write_gguf(folder, tmp_path / "model.gguf")
    assert load_config(path) == load_config(folder)
    one, other = (
        build_manifest(
            resolve_model_folder(str(source)),
            load_config(source),
            model_name="tiny",
            revision="1",
            constants=CONSTANTS,
            calibration=make_calibration(6),
        )
        for source in (folder, path)
    )
    assert one.manifest_hash == other.manifest_hash


def test_rotary_factors_of_llama_3_are_recognised(make_checkpoint, tmp_path, load_reference):
    folder = make_checkpoint(rope_parameters=LLAMA3)
    factors = compute_llama3_factors(5e5, 4, 8.0).astype(np.float32)
    assert 1 < factors[2] < 8
    path = write_gguf(folder, tmp_path / "model.gguf", rope_factors=factors)
    assert load_config(path) == load_config(folder)
    with torch.inference_mode():
        expected = load_reference(folder)(torch.tensor([PROMPT])).logits[0]
    assert (compute_logits(path) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "factors", [[1, 1, 3, 8], [1, 1, 1, float("nan")], [1, 1, 1, float("inf")], [0, 0, 0, 0]]
)
def test_other_rotary_factors_are_refused(make_checkpoint, tmp_path, factors):
    path = write_gguf(
        make_checkpoint(), tmp_path / "x.gguf", rope_factors=np.array(factors, np.float32)
    )
    with pytest.raises(UnknownArchitecture, match="rotary factors that are not Llama 3's"):
        load_config(path)


def test_linear_rotary_scaling_is_read(make_checkpoint, tmp_path):
    def scale(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    rope = load_config(write_gguf(make_checkpoint(), tmp_path / "x.gguf", change=scale)).rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_every_type_that_gguf_dequantises_is_read_to_the_bit(tmp_path, kind, monkeypatch):
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = 37, 2 * block_values
    blocks = np.random.default_rng(7).integers(0, 256, (rows, 2 * block_bytes), np.uint8)
    path = tmp_path / "blocks"
    path.write_bytes(b"head" + blocks.tobytes())
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks, kind).reshape(rows, columns)
    monkeypatch.setattr("mesh.model.gguf_tensors.PIECE_VALUES", 8 * columns)
    stored = GgufRows(path, kind, 4, rows, 2 * block_bytes, columns)
    assert_same_bits(np.concatenate([*stored.iterate()]), expected)
    assert_same_bits(stored.read(np.array([36, 0, 9])), expected[[36, 0, 9]])


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_the_types_that_are_read_include_all_that_models_are_shared_in():
    names = {kind.name for kind in READABLE}
    assert {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"} <= names
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ3_S", "IQ4_NL"} <= names
    assert {"IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"} <= names


@pytest.mark.parametrize("kind", QUANTISABLE, ids=lambda kind: kind.name)
def test_a_manifest_hashes_the_values_that_are_served(make_checkpoint, tmp_path, kind):
    """Two files with the same values have the same hashes, whatever their format."""
    folder = make_checkpoint(**WIDE, dtype="bfloat16" if kind is Kind.BF16 else "float32")
    path = write_gguf(folder, tmp_path / "model.gguf", kind=kind)
    manifest = make_manifest(path)
    shard = load_file_of(path)
    dtype, shape, _ = manifest.tensors["model.embed_tokens.weight"]
    assert shape == (131, 64)
    assert dtype == {Kind.F16: "F16", Kind.BF16: "BF16"}.get(kind, "F32")
    if kind in (Kind.F32, Kind.BF16):
        original = make_manifest(folder).tensors
        assert all(
            manifest.tensors[name] == entry
            for name, entry in original.items()
            if "norm" not in name
        )
        assert torch.equal(
            shard.layers[0].qkv[:64],
            load_file(folder / "model.safetensors")[
                "model.layers.0.self_attn.q_proj.weight"
            ].float(),
        )
    check(manifest, path)


def make_manifest(path, **options):
    return build_manifest(
        resolve_model_folder(str(path)),
        load_config(path),
        model_name="tiny",
        revision="1",
        constants=CONSTANTS,
        calibration=make_calibration(6),
        **options,
    )


def check(manifest, path, start=0, end=6, served_dtype="float32", **options):
    check_manifest(
        manifest,
        resolve_model_folder(str(path)),
        load_config(path),
        start=start,
        end=end,
        served_dtype=served_dtype,
        constants=CONSTANTS,
        **options,
    )


def test_a_file_in_float32_has_the_manifest_of_its_checkpoint(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    path = write_gguf(folder, tmp_path / "model.gguf")
    assert make_manifest(path).manifest_hash == make_manifest(folder).manifest_hash


def test_a_changed_block_is_named_and_rounding_is_refused(make_checkpoint, tmp_path):
    path = write_gguf(make_checkpoint(**WIDE), tmp_path / "model.gguf", kind=Kind.Q4_0)
    manifest = make_manifest(path)
    with pytest.raises(ManifestMismatch, match="bfloat16 would round"):
        check(manifest, path, served_dtype="bfloat16")
    body = bytearray(path.read_bytes())
    body[read_gguf(path).tensors["blk.4.ffn_up.weight"].begin + 5] ^= 1
    path.write_bytes(body)
    with pytest.raises(ManifestMismatch, match=r"SHA-256 of model\.layers\.4\.mlp\.up_proj"):
        check(manifest, path)
    check(manifest, path, 0, 4)


def test_int8_weights_are_made_from_the_dequantised_values(make_checkpoint, tmp_path):
    path = write_gguf(make_checkpoint(**WIDE), tmp_path / "model.gguf", kind=Kind.Q8_0)
    manifest = make_manifest(path, quant_type="int8")
    check(manifest, path, quant_type="int8")
    plain = load_file_of(path).layers[0].out
    packed = load_file_of(path, quant_type="int8").layers[0].out
    assert (packed.widen(torch.float32) - plain).abs().max() < plain.abs().max() / 100


async def test_an_auditor_reads_single_layers_and_rows(make_checkpoint, tmp_path, monkeypatch):
    path = write_gguf(make_checkpoint(**WIDE), tmp_path / "model.gguf", kind=Kind.Q8_0)
    auditor = Auditor(resolve_model_folder(str(path)), load_config(path))
    read = []
    load = GgufRows._load
    monkeypatch.setattr(
        GgufRows, "_load", lambda self, rows: read.append((self.begin, rows)) or load(self, rows)
    )
    whole = load_file_of(path)
    read.clear()
    assert torch.equal(auditor.read_layer(4).down, whole.layers[4].down)
    tensors = read_gguf(path).tensors
    assert {begin for begin, _ in read} == {
        tensor.begin for name, tensor in tensors.items() if name.startswith("blk.4.")
    }
    read.clear()
    _, rows = auditor.read_head(np.array([130, 5]))
    assert torch.equal(rows, whole.head[[130, 5]])
    assert [taken.tolist() for begin, taken in read if begin == tensors["output.weight"].begin] == [
        [130, 5]
    ]


def test_half_precision_rounds_the_values_once(make_checkpoint, tmp_path):
    path = write_gguf(make_checkpoint(**WIDE), tmp_path / "model.gguf", kind=Kind.Q5_1)
    exact = load_file_of(path)
    rounded = load_file_of(path, dtype="bfloat16")
    served = rounded.layers[3].cast(torch.bfloat16).gate_up
    assert torch.equal(served, exact.layers[3].gate_up.to(torch.bfloat16))


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_model_is_named_by_its_file_or_by_a_folder_with_one(make_checkpoint, tmp_path, named):
    path = write_gguf(make_checkpoint(), tmp_path / "Tiny.Q8_0.gguf")
    found = resolve_model_folder(str(path if named == "file" else tmp_path))
    assert found.gguf == found.source == path
    assert found.path == tmp_path
    assert found.name == ("Tiny.Q8_0" if named == "file" else tmp_path.name)
    check_has_weights(found)


def test_a_checkpoint_in_safetensors_goes_before_a_gguf_file_beside_it(make_checkpoint, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(make_checkpoint(), folder)
    write_gguf(folder, folder / "model.gguf")
    assert resolve_model_folder(str(folder)).gguf is None


def test_several_files_in_a_folder_are_refused_by_name(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelFilesMissing, match=r"several GGUF files \(a.gguf, b.gguf\)"):
        resolve_model_folder(str(tmp_path))


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ModelFilesMissing, match="no GGUF file; check the path"):
        resolve_model_folder("missing.gguf")


@pytest.mark.parametrize("kind", UNREADABLE, ids=lambda kind: kind.name)
def test_a_tensor_in_a_type_that_cannot_be_dequantised_is_refused_by_name(
    make_checkpoint, tmp_path, kind
):
    path = rewrite_type(write_gguf(make_checkpoint(), tmp_path / "x.gguf"), "blk.0.attn_norm", kind)
    with pytest.raises((QuantisedCheckpoint, ModelError), match=rf"attn_norm.weight.*{kind.name}"):
        load_file_of(path, 0, 1)


def rewrite_type(path: Path, name: str, number: int) -> Path:
    """Change a vector's type in the table of tensors."""
    body = bytearray(path.read_bytes())
    place = body.index(f"{name}.weight".encode()) + len(f"{name}.weight") + 4 + 8
    body[place : place + 4] = struct.pack("<I", number)
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("number", [4, 5, 36, 99, 2**32 - 1])
def test_an_unknown_type_is_refused_by_number(make_checkpoint, tmp_path, number):
    path = rewrite_type(write_gguf(make_checkpoint(), tmp_path / "x.gguf"), "output_norm", number)
    with pytest.raises(QuantisedCheckpoint, match=f"output_norm.*unknown type {number}"):
        load_config(path)


def test_a_truncated_tensor_is_refused_before_anything_is_read(make_checkpoint, tmp_path):
    path = write_gguf(make_checkpoint(), tmp_path / "x.gguf")
    last = max(read_gguf(path).tensors.values(), key=lambda tensor: tensor.end)
    path.write_bytes(path.read_bytes()[: last.end - 1])
    with pytest.raises(ModelError, match=f"ends inside the tensor {last.name}: the file is cut"):
        load_config(path)


def test_a_header_that_is_cut_off_anywhere_is_refused(make_checkpoint, tmp_path):
    whole = write_gguf(make_checkpoint(), tmp_path / "x.gguf").read_bytes()
    table = whole.index(b"blk.5.attn_q.weight")
    for size in (0, 3, 4, 8, 23, 24, 30, 200, table - 9, table + 9, table + 40):
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="not a GGUF file|ends inside its header"):
            read_gguf(path)


def make_header(*fields: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count or len(fields)) + b"".join(fields)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
        (make_header(tensors=1 << 60), "claims 1152921504606846976 tensors"),
        (make_header(count=1 << 60), "claims 1152921504606846976 metadata fields"),
        (make_header(struct.pack("<Q", 1 << 62)), "bytes of a text"),
        (make_header(text("k") + struct.pack("<IQ", 8, 1 << 40)), "bytes of a text"),
        (make_header(text("k") + struct.pack("<IIQ", 9, 0, 1 << 40)), "entries of an array"),
        (make_header(text("k") + struct.pack("<IIQ", 9, 12, 1 << 19)), "ends inside its header"),
        (make_header(text("k") + struct.pack("<IIQ", 9, 8, 1 << 19)), "ends inside its header"),
        (make_header(text("k") + struct.pack("<IIQ", 9, 9, 1)), "array of arrays"),
        (make_header(text("k") + struct.pack("<I", 77)), "unknown type 77"),
        (make_header(*[text("k") + struct.pack("<IB", 0, 1)] * 2), "the field 'k' twice"),
        (make_header(text("k") + struct.pack("<IQ", 8, 1) + b"\xff"), "not UTF-8"),
        (make_header(text("general.alignment") + struct.pack("<II", 4, 3)), "no power of two"),
        (make_header(text("general.alignment") + struct.pack("<II", 4, 0)), "no power of two"),
        (make_header(tensors=1) + text("t") + struct.pack("<I", 9), "dimensions of a tensor"),
        (make_header(tensors=1) + text("t") + struct.pack("<IIQ", 0, 0, 0), "has the shape"),
        (
            make_header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 0, 0, 0),
            r"has the shape \(0,\)",
        ),
        (
            make_header(tensors=1) + text("t") + struct.pack("<IQQIQ", 2, 1 << 62, 1 << 62, 0, 0),
            "ends inside the tensor t",
        ),
        (
            make_header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 4, 0, (1 << 64) - 1),
            "ends inside the tensor t",
        ),
        (
            make_header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 33, 2, 0),
            "blocks of 32",
        ),
        (
            make_header(tensors=2) + (text("t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + bytes(64),
            "the tensor 't' twice",
        ),
    ],
)
def test_a_lying_header_is_refused_with_one_sentence(tmp_path, raw, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=message):
        read_gguf(path)


def test_a_header_of_gigabytes_is_refused_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "MAX_HEADER_BYTES", 100)
    path = tmp_path / "x.gguf"
    path.write_bytes(make_header(*(text(f"{n}") + text("x" * 9) for n in range(9))) + bytes(500))
    body = make_header(*(text(f"{n}") + struct.pack("<I", 8) + text("x" * 9) for n in range(9)))
    path.write_bytes(body + bytes(500))
    with pytest.raises(ModelError, match="header of more than 100 bytes"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda writer: writer.add_expert_count(8), "a llama with experts"),
        (
            lambda writer: (
                writer.add_rope_scaling_type(gguf.RopeScalingType.YARN),
                writer.add_rope_scaling_yarn_ext_factor(0.5),
            ),
            "by YaRN with yarn_ext_factor",
        ),
        (
            lambda writer: writer.add_tensor("blk.0.attn_sinks", np.ones(3, np.float32)),
            "tensor 'blk.0.attn_sinks'",
        ),
    ],
)
def test_what_would_change_an_answer_is_refused_by_name(make_checkpoint, tmp_path, change, message):
    path = write_gguf(make_checkpoint(), tmp_path / "x.gguf", change=change)
    with pytest.raises(UnknownArchitecture, match=message):
        load_config(path)


def test_partial_rotary_positions_are_refused(make_checkpoint, tmp_path):
    path = write_gguf(make_checkpoint(), tmp_path / "x.gguf")
    body = path.read_bytes()
    key = text("llama.rope.dimension_count") + struct.pack("<I", 4)
    path.write_bytes(body.replace(key + struct.pack("<I", 8), key + struct.pack("<I", 4)))
    with pytest.raises(UnknownArchitecture, match=r"rope.dimension_count 4 with heads of 8"):
        load_config(path)


@pytest.mark.parametrize("name", ["gemma3", "qwen2moe", "phi2", "mistral3"])
def test_other_architectures_are_refused_by_name(tmp_path, name):
    path = tmp_path / "x.gguf"
    path.write_bytes(make_header(text("general.architecture") + struct.pack("<I", 8) + text(name)))
    with pytest.raises(UnknownArchitecture, match=f"'{name}'; GGUF files of llama, qwen2, qwen3"):
        load_config(path)


def test_one_of_several_parts_is_refused(make_checkpoint, tmp_path):
    path = write_gguf(
        make_checkpoint(), tmp_path / "x.gguf", change=lambda w: w.add_uint16("split.count", 3)
    )
    with pytest.raises(ModelError, match="llama-gguf-split --merge"):
        load_config(path)


def test_a_missing_number_is_named_with_its_file(tmp_path):
    path = tmp_path / "x.gguf"
    field = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 1, 1, 0, 0)
    path.write_bytes(make_header(field, tensors=1) + tensor + bytes(64))
    with pytest.raises(ModelError, match=r"x\.gguf: num_attention_heads must be from 1"):
        load_config(path)


def test_reading_warns_of_nothing(make_checkpoint, tmp_path):
    """Blocks of a stranger may hold an infinite scale, of which numpy would warn."""
    path = write_gguf(make_checkpoint(**WIDE), tmp_path / "x.gguf", kind=Kind.Q4_1)
    body = bytearray(path.read_bytes())
    begin = read_gguf(path).tensors["blk.0.ffn_up.weight"].begin
    body[begin : begin + 4] = b"\x00\x7c\x00\xfc"
    path.write_bytes(body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.isfinite(load_file_of(path, 0, 1).layers[0].gate_up).all()
