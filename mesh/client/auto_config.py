"""How transformers' Auto classes recognise a model that is served by a mesh."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from mesh.client.connection import Connection
from mesh.client.route_search import RoutingOptions
from mesh.model.config import read_config_fields

MODEL_TYPE = "mesh"
_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class MeshConfig(PreTrainedConfig):  # type: ignore[misc]
    """Where a model is served, and the numbers that generation needs.

    ``base_model`` is the served model's name or path. ``max_layers_per_hop`` forces routes over
    several hosters.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ("past_key_values",)

    base_model: str | None = None
    initial_peers: list[str] | None = None
    max_layers_per_hop: int | None = None
    vocab_size: int = 1
    hidden_size: int = 1
    num_hidden_layers: int = 1
    max_position_embeddings: int = 1
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = False

    @property
    def routing(self) -> RoutingOptions:
        return RoutingOptions(max_layers_per_hop=self.max_layers_per_hop)


def make_mesh_config(
    connection: Connection, *, initial_peers: list[str], max_layers_per_hop: int | None
) -> MeshConfig:
    """Describe a served model in transformers' words."""
    fields = read_config_fields(connection.folder.source)
    numbers: dict[str, Any] = {name: fields[name] for name in _NUMBERS if name in fields}
    return MeshConfig(
        base_model=connection.model_name,
        initial_peers=initial_peers,
        max_layers_per_hop=max_layers_per_hop,
        **numbers,
    )


AutoConfig.register(MODEL_TYPE, MeshConfig, exist_ok=True)
