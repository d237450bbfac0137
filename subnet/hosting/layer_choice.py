"""Which layers this hoster serves when its operator does not say: what fits, where it helps.

The rules are in mesh/routing/placement.py; here they meet this machine's memory and the
heartbeats that this node knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from consensus.types import LayerRange
from keys.peer import PeerId
from mesh.errors import MeshError
from mesh.model.capacity import (
    ServingFormat,
    count_fitting_layers,
    measure_free_memory,
)
from mesh.model.config import LayerSpan, ModelConfig
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import PROTOCOL_VERSION, ServerRole, ServerState
from mesh.routing.placement import PlacedServer, choose_move, choose_span
from subnet.errors import ConfigError
from subnet.hosting.limits import choose_limits
from subnet.operator.config import NodeConfig

logger = logging.getLogger(__name__)


def get_format(config: NodeConfig, model: ModelConfig) -> ServingFormat:
    """Return how the weights are held, by what the operator says."""
    dtype = model.stored_dtype if config.torch_dtype == "auto" else config.torch_dtype
    return ServingFormat(dtype, config.quant_type, config.device)


def choose_length(
    config: NodeConfig, model: ModelConfig, *, measure: Callable[[str], int] = measure_free_memory
) -> int:
    """Return how many layers to serve: as told, or as many as fit beside the cache.

    Raises ConfigError when not even one fits, ModelError.
    """
    if config.num_layers is not None:
        return config.num_layers
    memory_bytes, limits = measure(config.device), choose_limits(config)
    fitting = count_fitting_layers(
        model,
        get_format(config, model),
        memory_bytes=memory_bytes,
        cache_tokens=config.attn_cache_tokens,
        rows=max(limits.prefill_chunk, limits.prefill_tokens),
    )
    if not fitting:
        raise ConfigError(
            f"not one block of {config.model} fits into the {memory_bytes >> 20} MiB that are free "
            f"on {config.device}, beside a cache of {config.attn_cache_tokens} tokens",
            "lower --attn-cache-tokens, try --quant-type int8 or int4, or give --num-blocks",
        )
    return fitting


class LayerChoice:
    """Chooses this hoster's layers at the start, and others when the swarm needs it."""

    def __init__(
        self,
        config: NodeConfig,
        model: ModelConfig,
        directory: Directory,
        *,
        own: PeerId,
        list_nodes: Callable[[], Sequence[PeerId]],
        measure: Callable[[str], int] = measure_free_memory,
    ) -> None:
        self._config = config
        self._model = model
        self._directory = directory
        self._own = own
        self._list_nodes = list_nodes
        self._measure = measure

    async def choose_first(self) -> LayerRange:
        """Return the layers to load first. Raises ConfigError or ModelError."""
        length = choose_length(self._config, self._model, measure=self._measure)
        if length == self._model.num_layers:
            return LayerRange(0, length)
        await self._refresh()
        others = [server for server in self._list_placed() if server.peer_id != self._own]
        span = choose_span(others, num_layers=self._model.num_layers, length=length)
        return LayerRange(span.start, span.end)

    async def choose_move(
        self, layers: LayerRange, *, throughput: int, epoch: int
    ) -> LayerRange | None:
        """Return where to move from ``layers``, by fresh heartbeats; None to stay."""
        if len(layers) == self._model.num_layers:
            return None
        await self._refresh()
        own = PlacedServer(self._own, LayerSpan(layers.start, layers.end), throughput)
        target = choose_move(
            self._list_placed(), own, num_layers=self._model.num_layers, epoch=epoch
        )
        return None if target is None else LayerRange(target.start, target.end)

    async def _refresh(self) -> None:
        """Read the heartbeats of the swarm; what cannot be read counts as not there."""
        peers = [
            PeerId.from_base58(text.rpartition("/p2p/")[2]) for text in self._config.initial_peers
        ]
        try:
            if peers:
                await self._directory.fetch_from_first(peers)
        except MeshError as error:
            logger.warning("no initial peer tells of the hosters: %s", error)
        try:
            await self._directory.fetch_from_records(self._list_nodes())
        except MeshError as error:
            logger.warning("the heartbeats cannot be read: %s", error)

    def _list_placed(self) -> list[PlacedServer]:
        """Leave out peers that the chain does not know: a peer's directory may name any."""
        known = {self._own, *self._list_nodes()}
        return [server for server in list_placed(self._directory) if server.peer_id in known]


def list_placed(directory: Directory) -> list[PlacedServer]:
    """Return the hosters that serve, or load what they will serve; those that drain are leaving."""
    return [
        PlacedServer(
            server.peer_id,
            server.info.span,
            server.info.throughput,
            is_online=server.info.state is ServerState.ONLINE,
        )
        for server in directory.list_servers()
        if server.info.span is not None
        and server.info.role is ServerRole.HOSTER
        and server.info.state in (ServerState.ONLINE, ServerState.JOINING)
        and server.info.protocol_version == PROTOCOL_VERSION
    ]
