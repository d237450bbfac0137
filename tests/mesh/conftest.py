"""Small random checkpoints, written by transformers itself, as the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 131,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _family(architecture: str) -> tuple[type, type]:
    import transformers

    name = architecture.removesuffix("ForCausalLM")
    return getattr(transformers, f"{name}Config"), getattr(transformers, architecture)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random checkpoint once and returns its folder."""
    made: dict[str, Path] = {}

    def make(
        architecture: str = "LlamaForCausalLM",
        *,
        seed: int = 7,
        dtype: str = "float32",
        max_shard_size: str = "5GB",
        **changes: Any,
    ) -> Path:
        key = repr((architecture, seed, dtype, max_shard_size, sorted(changes.items())))
        if key not in made:
            import torch

            config_class, model_class = _family(architecture)
            torch.manual_seed(seed)
            config = config_class(**{**TINY, **changes})
            model = model_class(config).to(getattr(torch, dtype)).eval()
            for name, parameter in model.named_parameters():
                # Norms and biases start at one and zero, where a mix-up would not show.
                if "norm" in name or name.endswith("bias"):
                    parameter.data += 0.1 * torch.randn_like(parameter)
            folder = tmp_path_factory.mktemp("checkpoint")
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def load_reference() -> Callable[[Path], Any]:
    """Return a function that loads a folder with transformers, in its stored type."""

    def load(folder: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder).eval()

    return load
