"""``mesh plan``: which blocks a hoster would serve here, and how fast; downloads no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit, say_if_slow
from subnet.cli.options import Chain, Offline, SwarmSubnet
from subnet.cli.peers import FoundPeers, find_peers

if TYPE_CHECKING:
    from mesh.model.capacity import ServingFormat
    from mesh.model.config import ModelConfig
    from mesh.routing.placement import PlacedServer
    from subnet.hosting.plan import ServingPlan

GIB = 1 << 30


def plan(
    model: Annotated[
        str, typer.Argument(help="Hugging Face name, a local folder, or a GGUF file.")
    ],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    torch_dtype: Annotated[
        str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.")
    ] = "auto",
    quant_type: Annotated[str, typer.Option(help="none, or int8 or int4 weights.")] = "none",
    memory: Annotated[
        str | None,
        typer.Option(help="The device's memory, such as 24GiB; measured here if absent."),
    ] = None,
    attn_cache_tokens: Annotated[
        int, typer.Option(min=16, help="Tokens of key-value cache, over all sessions.")
    ] = 16_384,
    num_layers: Annotated[
        int | None,
        typer.Option("--num-blocks", min=1, help="How many blocks; as many as fit if absent."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Compute threads; all cores if absent.")
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=0.001, help="Memory bandwidth in GB/s; measured here if absent."),
    ] = None,
    offline: Offline = False,
    initial_peers: Annotated[
        list[str] | None, typer.Option(help="A running peer: plan for what its swarm needs.")
    ] = None,
    subnet: SwarmSubnet = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say which blocks a hoster would serve here, in how much memory, and how fast.

    Reads the configuration only; no weights are downloaded. The speed is an estimate.
    """
    import asyncio
    import os

    from mesh.model.capacity import (
        DTYPE_BYTES,
        ServingFormat,
        get_runtime_bytes,
        measure_free_memory,
    )
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.model.speed import measure_bandwidth
    from subnet.errors import UsageError
    from subnet.hosting.plan import make_plan, parse_size
    from subnet.operator.config import check_quant_type
    from subnet.operator.logs import LogOptions, configure_logs

    if torch_dtype not in ("auto", *DTYPE_BYTES):
        raise UsageError(
            f"--torch-dtype: {torch_dtype!r} is not known", f"give auto, {', '.join(DTYPE_BYTES)}"
        )
    configure_logs(LogOptions(level="warning"))
    quantisation = check_quant_type(quant_type)
    has_swarm = bool(initial_peers or subnet)
    memory_bytes = None
    if memory is not None:
        memory_bytes = max(0, parse_size(memory, option="--memory") - get_runtime_bytes(device))
    peers = find_peers(initial_peers, subnet=subnet, chain=chain) if has_swarm else None
    folder = resolve_known_model(model)
    config = load_config(folder.source)
    form = ServingFormat(
        config.stored_dtype if torch_dtype == "auto" else torch_dtype, quantisation, device
    )
    made = make_plan(
        config,
        form,
        memory_bytes=measure_free_memory(device) if memory_bytes is None else memory_bytes,
        cache_tokens=attn_cache_tokens,
        bytes_per_second=(
            measure_bandwidth(device, threads=threads or os.cpu_count() or 1)
            if bandwidth is None
            else bandwidth * 1e9
        ),
        num_layers=num_layers,
        servers=() if peers is None else asyncio.run(_ask_swarm(peers, config)),
    )
    described = _describe(
        made, config, form, name=folder.name, device=device, cache_tokens=attn_cache_tokens
    )
    emit(json.dumps(described) if as_json else _show(made, config, described, has_swarm=has_swarm))


async def _ask_swarm(peers: FoundPeers, config: ModelConfig) -> list[PlacedServer]:
    from subnet.hosting.plan import fetch_swarm

    with say_if_slow(f"waiting for {peers.describe()} to answer"):
        return await fetch_swarm(peers.addresses, config, network_id=peers.network_id)


def _describe(
    made: ServingPlan,
    config: ModelConfig,
    form: ServingFormat,
    *,
    name: str,
    device: str,
    cache_tokens: int,
) -> dict[str, object]:
    return {
        "model": name,
        "num_blocks": config.num_layers,
        "blocks": [made.span.start, made.span.end],
        "fitting_blocks": made.fitting_layers,
        "device": device,
        "dtype": form.dtype,
        "quant_type": form.quant_type,
        "weights_bytes": made.need.weights,
        "cache_bytes": made.need.cache,
        "workspace_bytes": made.need.workspace,
        "cache_tokens": cache_tokens,
        "max_context": config.max_context,
        "uncovered_blocks": list(made.uncovered),
        "estimated_tokens_per_second": round(made.tokens_per_second, 2),
    }


def _show(
    made: ServingPlan, config: ModelConfig, described: dict[str, object], *, has_swarm: bool
) -> str:
    need = made.need
    quantised = "" if described["quant_type"] == "none" else f", weights {described['quant_type']}"
    sizes = " + ".join(
        f"{_show_size(size)} {what}"
        for size, what in (
            (need.weights, "weights"),
            (need.cache, "cache"),
            (need.workspace, "workspace"),
        )
    )
    held = f"{described['dtype']}{quantised}"
    lines = [
        f"model    {described['model']}, {config.num_layers} blocks, {held}",
        f"serve    blocks {made.span} on {described['device']} ({made.fitting_layers} would fit)",
        f"memory   {sizes} = {_show_size(need.total)}",
        f"cache    {described['cache_tokens']} tokens over all sessions, "
        f"up to {config.max_context} each",
        f"speed    about {made.tokens_per_second:.1f} tokens/s through these blocks, one session "
        "(an estimate from memory bandwidth)",
    ]
    if has_swarm:
        listed = ", ".join(map(str, made.uncovered)) or "none"
        lines.append(f"swarm    blocks that no hoster serves yet: {listed}")
    return "\n".join(lines)


def _show_size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"
