"""What a plan says about memory is what a shard takes."""

from __future__ import annotations

import dataclasses

import pytest

from mesh.errors import DeviceUnavailable, ModelError
from mesh.model import bfloat16_packed, capacity
from mesh.model.attention import PagedCache
from mesh.model.capacity import (
    ServingFormat,
    compute_cache_bytes,
    compute_layer_bytes,
    compute_memory,
    compute_weights_bytes,
    count_fitting_layers,
    measure_free_memory,
    read_cgroup_room,
)
from mesh.model.config import LayerSpan, load_config
from mesh.model.files import resolve_model_folder
from mesh.model.weights import load_shard
from tests.support.families import FAMILIES

BIASED = {"attention_bias": True, "mlp_bias": True}
FORMS = [
    ServingFormat("float32"),
    ServingFormat("bfloat16"),
    ServingFormat("bfloat16", "int8"),
    ServingFormat("bfloat16", "int4"),
]


def count_held_bytes(shard) -> int:
    """Bytes of every distinct tensor that a shard holds."""
    held = {}
    for owner in (*shard.layers, shard):
        for field in dataclasses.fields(owner):
            value = getattr(owner, field.name)
            if hasattr(value, "nbytes"):
                held[id(value)] = value.nbytes
    return sum(held.values())


def load(folder, form, span):
    return load_shard(
        resolve_model_folder(str(folder)),
        load_config(folder),
        start=span.start,
        end=span.end,
        dtype=form.dtype,
        quant_type=form.quant_type,
    )


@pytest.mark.parametrize("quant_type", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "span", [LayerSpan(0, 6), LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(3, 6)]
)
def test_weights_are_exact_to_the_byte(make_checkpoint, dtype, quant_type, span):
    folder, form = make_checkpoint(), ServingFormat(dtype, quant_type)
    expected = count_held_bytes(load(folder, form, span))
    assert compute_weights_bytes(load_config(folder), form, span) == expected


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("is_tied", [False, True])
def test_every_family_counts_its_biases_norms_and_experts(make_checkpoint, architecture, is_tied):
    changes = BIASED if architecture == "LlamaForCausalLM" else FAMILIES[architecture]
    folder = make_checkpoint(architecture, tie_word_embeddings=is_tied, **changes)
    config, whole = load_config(folder), LayerSpan(0, 6)
    for form in FORMS:
        shard = load(folder, form, whole)
        assert compute_weights_bytes(config, form, whole) == count_held_bytes(shard)


def test_a_tied_head_counts_again_where_it_is_packed(make_checkpoint, monkeypatch):
    config, whole = load_config(make_checkpoint(tie_word_embeddings=True)), LayerSpan(0, 6)
    form = ServingFormat("bfloat16")
    monkeypatch.setattr(bfloat16_packed, "has_kernels", lambda: False)
    plain = compute_weights_bytes(config, form, whole)
    monkeypatch.setattr(bfloat16_packed, "has_kernels", lambda: True)
    packed = compute_weights_bytes(config, form, whole)
    assert packed - plain == 2 * config.vocab_size * config.hidden_size
    on_gpu = dataclasses.replace(form, device="cuda")
    assert compute_weights_bytes(config, on_gpu, whole) == plain


def test_cache_is_exact_to_the_byte(make_checkpoint):
    folder, form = make_checkpoint(), ServingFormat("bfloat16")
    cache = PagedCache(load(folder, form, LayerSpan(1, 4)), tokens=77)
    found = compute_cache_bytes(load_config(folder), form, layers=3, tokens=77)
    assert found == cache.slab.nbytes


def test_tinyllama_takes_what_is_known_of_it(make_checkpoint):
    """1.1 billion parameters in two bytes; 22 KiB of cache a token."""
    folder = make_checkpoint()
    tiny = dataclasses.replace(
        load_config(folder),
        num_layers=22,
        hidden_size=2048,
        intermediate_size=5632,
        num_heads=32,
        num_kv_heads=4,
        head_dim=64,
        vocab_size=32_000,
        max_context=2048,
    )
    form = ServingFormat("bfloat16")
    assert compute_weights_bytes(tiny, form, LayerSpan(0, 22)) == 2 * 1_100_048_384
    assert compute_cache_bytes(tiny, form, layers=22, tokens=16) == 16 * 22 * 1024
    assert compute_layer_bytes(tiny, ServingFormat("bfloat16", "int8")) < 0.51 * (
        compute_layer_bytes(tiny, form)
    )
    # Four bits, and a float32 scale for 64 of them; the head too, the embedding not.
    head = 32_000 * 2048
    small = compute_weights_bytes(tiny, ServingFormat("bfloat16", "int4"), LayerSpan(0, 22))
    plain = 2 * (head + 2048 * 45)
    assert small - plain == (1_100_048_384 - plain // 2) * (32 + 4) // 64


def test_as_many_layers_fit_as_the_arithmetic_says(make_checkpoint):
    config, form = load_config(make_checkpoint()), ServingFormat("float32")
    whole = compute_memory(config, form, LayerSpan(0, 6), cache_tokens=64).total
    assert count_fitting_layers(config, form, memory_bytes=whole, cache_tokens=64) == 6
    assert count_fitting_layers(config, form, memory_bytes=whole - 1, cache_tokens=64) == 5
    assert count_fitting_layers(config, form, memory_bytes=1000, cache_tokens=64) == 0
    for memory_bytes in range(0, whole, whole // 40):
        fitting = count_fitting_layers(config, form, memory_bytes=memory_bytes, cache_tokens=64)
        for start in range(config.num_layers - fitting + 1 if fitting else 0):
            span = LayerSpan(start, start + fitting)
            need = compute_memory(config, form, span, cache_tokens=64)
            assert need.total <= memory_bytes, f"{span} in {memory_bytes}"


def test_more_cache_leaves_room_for_fewer_layers(make_checkpoint):
    config, form = load_config(make_checkpoint()), ServingFormat("float32")
    memory_bytes = compute_memory(config, form, LayerSpan(0, 6), cache_tokens=64).total
    fitting = [
        count_fitting_layers(config, form, memory_bytes=memory_bytes, cache_tokens=tokens)
        for tokens in (64, 256, 1024, 100_000)
    ]
    assert fitting == sorted(fitting, reverse=True) and fitting[-1] == 0


def test_a_control_group_bounds_what_is_free(tmp_path, monkeypatch):
    limit, usage = tmp_path / "max", tmp_path / "current"
    limit.write_text(f"{2 << 30}\n")
    usage.write_text(f"{1 << 30}\n")
    monkeypatch.setattr(capacity, "_CGROUP_LIMITS", ((limit, usage),))
    assert read_cgroup_room() == 1 << 30
    assert measure_free_memory("cpu") <= (1 << 30) - capacity.get_runtime_bytes("cpu")
    limit.write_text("max\n")
    assert read_cgroup_room() is None


def test_an_absent_device_and_an_unknown_type_are_refused_by_name():
    with pytest.raises(DeviceUnavailable, match="cuda:63"):
        measure_free_memory("cuda:63")
    with pytest.raises(ModelError, match="int3"):
        _ = ServingFormat("int3").value_bytes
