"""A model family that comes as a plug-in computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.errors import UnknownArchitecture
from mesh.model import families
from mesh.model.attention import Segment
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.weights import load_shard
from tests.support.plugins import Install, make_installer

ARCHITECTURE = "SeedOssForCausalLM"
"""A family of transformers that is not built in."""
CODE = """
from mesh.model.family import Family, Traits

def read_traits(fields):
    return Traits(
        qkv_bias=bool(fields.get("attention_bias", True)),
        out_bias=bool(fields.get("attention_out_bias", False)),
        mlp_bias=bool(fields.get("mlp_bias", False)),
    )

SEED_OSS = Family("SeedOssForCausalLM", read_traits)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    yield make_installer(tmp_path, monkeypatch)
    families._find_plugged.cache_clear()


@pytest.mark.parametrize("split", [((0, 6),), ((0, 2), (2, 6))], ids=["one", "two"])
def test_logits_of_a_plugged_family_equal_transformers(
    install: Install,
    make_checkpoint: Callable[..., Path],
    load_reference: Callable[[Path], Any],
    split: tuple[tuple[int, int], ...],
) -> None:
    folder = make_checkpoint(ARCHITECTURE, attention_bias=True, attention_out_bias=True)
    with pytest.raises(UnknownArchitecture):
        load_config(folder)
    install("seed_oss_family", CODE, families=f"{ARCHITECTURE} = seed_oss_family:SEED_OSS")
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    prompt = list(range(3, 30))
    with torch.inference_mode():
        expected = load_reference(folder)(torch.tensor([prompt])).logits[0]
        runners = [
            ShardRunner(
                load_shard(located, config, start=start, end=end, dtype="float32"),
                cache_tokens=64,
                deterministic=False,
            )
            for start, end in split
        ]
        rows = runners[0].embed(prompt)
        for runner in runners:
            segment = Segment(0, len(prompt), range(4), 0)
            rows = runner.forward(
                rows, [segment], start=runner.weights.start, end=runner.weights.end
            )
        logits = runners[-1].compute_logits(rows)
    assert (logits - expected).abs().max() < 1e-4
