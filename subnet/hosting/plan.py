"""What a hoster would serve here, worked out from config.json alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import ManifestMismatch
from mesh.model.capacity import (
    MemoryNeed,
    ServingFormat,
    compute_memory,
    count_fitting_layers,
)
from mesh.model.config import LayerSpan, ModelConfig
from mesh.model.speed import estimate_tokens_per_second
from mesh.routing.placement import PlacedServer, choose_span, compute_layer_rates
from subnet.errors import ConfigError, UsageError

_UNITS = {
    "": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """A range and what it takes. ``tokens_per_second`` is an estimate for one session.

    ``fitting_layers`` is how many would fit; ``uncovered`` lists the layers that no known
    hoster serves, this plan not counted.
    """

    span: LayerSpan
    need: MemoryNeed
    fitting_layers: int
    tokens_per_second: float
    uncovered: tuple[int, ...]


def make_plan(
    config: ModelConfig,
    form: ServingFormat,
    *,
    memory_bytes: int,
    cache_tokens: int,
    bytes_per_second: float,
    num_layers: int | None = None,
    servers: Sequence[PlacedServer] = (),
) -> ServingPlan:
    """Return what a hoster would serve. Raises ConfigError or LayerRangeOutsideModel."""
    fitting = count_fitting_layers(
        config, form, memory_bytes=memory_bytes, cache_tokens=cache_tokens
    )
    length = fitting if num_layers is None else num_layers
    if not length:
        raise ConfigError(
            f"not one block fits into {memory_bytes >> 20} MiB beside {cache_tokens} cache tokens",
            "lower --attn-cache-tokens, try --quant-type int8 or int4, or give more --memory",
        )
    config.check_layer_range(0, length)
    span = choose_span(servers, num_layers=config.num_layers, length=length)
    rates = compute_layer_rates(servers, num_layers=config.num_layers)
    return ServingPlan(
        span=span,
        need=compute_memory(config, form, span, cache_tokens=cache_tokens),
        fitting_layers=fitting,
        tokens_per_second=estimate_tokens_per_second(
            config, form, span, bytes_per_second=bytes_per_second
        ),
        uncovered=tuple(layer for layer, rate in enumerate(rates) if not rate),
    )


def parse_size(text: str, *, option: str) -> int:
    """Parse ``24GiB``, ``8 GB`` or a number of bytes. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    unit = None if found is None else _UNITS.get(found.group(2).lower())
    if found is None or unit is None:
        raise UsageError(f"{option}: {text!r} is not a size", "write it like 24GiB or 8GB")
    return int(float(found.group(1)) * unit)


async def fetch_swarm(
    initial_peers: Sequence[str], config: ModelConfig, *, network_id: bytes | None = None
) -> list[PlacedServer]:
    """Ask running peers for the hosters of their network, which is ``network_id`` unless None.

    Raises InvalidRequest, NoPeerAnswers, PeerError, ManifestMismatch when they serve a model of
    another size, or TransportError.
    """
    from mesh.client.connection import learn_network, make_client_host_config
    from mesh.p2p.addresses import split_peer_address
    from mesh.p2p.hivemind_host import HivemindHost
    from mesh.p2p.quic import modernise
    from mesh.routing.directory import Directory
    from subnet.hosting.layer_choice import list_placed

    initial = modernise(tuple(initial_peers))
    async with HivemindHost.open(make_client_host_config()) as host:
        info = await learn_network(host, initial, network_id=network_id)
        if info.num_layers != config.num_layers:
            raise ManifestMismatch(
                f"the network serves {info.model_name} with {info.num_layers} blocks; "
                f"this model has {config.num_layers}"
            )
        host.set_network_id(info.network_id)
        directory = Directory(host, network_id=info.network_id)
        await directory.fetch_from_first([split_peer_address(text)[1] for text in initial])
        return list_placed(directory)
