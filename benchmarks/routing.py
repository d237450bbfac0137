"""How long a gateway thinks about a route, against networkx over the same hops.

    python -m benchmarks.routing           a table
    python -m benchmarks.routing --json    one JSON object

networkx's Dijkstra gets one edge for each hop that the planner considers: from a cut to a later
one, with the cheapest server that covers the layers between. It may use one server twice, which a
route may not, so it solves an easier problem. The two take turns; a ratio is the median over the
rounds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import networkx  # type: ignore[import-untyped]

from keys.peer import PeerKey
from mesh.model.config import LayerSpan
from mesh.routing.routing import RouteServer, plan_route

ROUNDS = 15
NUM_LAYERS = 32
PEERS = [PeerKey(number.to_bytes(32)).peer_id for number in range(1, 201)]


@dataclass(frozen=True)
class Row:
    """One swarm: milliseconds of CPU time, and networkx's time as a multiple of the planner's."""

    swarm: str
    hosters: int
    max_layers_per_hop: int | None
    planner_ms: float
    networkx_ms: float
    ratio: float
    lowest: float
    highest: float


def draw_whole(rng: random.Random, count: int) -> list[RouteServer]:
    """Return hosters of the whole model."""
    return [draw_server(rng, number, LayerSpan(0, NUM_LAYERS)) for number in range(count)]


def draw_parts(rng: random.Random, count: int) -> list[RouteServer]:
    """Return hosters of four to sixteen layers; the first four cover the model."""
    spans = [LayerSpan(start, start + 8) for start in range(0, NUM_LAYERS, 8)]
    while len(spans) < count:
        length = rng.randint(4, 16)
        start = rng.randint(0, NUM_LAYERS - length)
        spans.append(LayerSpan(start, start + length))
    return [draw_server(rng, number, span) for number, span in enumerate(spans)]


def draw_server(rng: random.Random, number: int, span: LayerSpan) -> RouteServer:
    throughput, hop_s = rng.uniform(500, 3000), rng.uniform(0.001, 0.1)
    return RouteServer(PEERS[number], span, throughput, 10_000, hop_s, rng.randrange(16))


def search_with_networkx(servers: Sequence[RouteServer], max_layers: int) -> None:
    cuts = {end for server in servers for end in (server.span.start, server.span.end)}
    phases = {cut % max_layers for cut in cuts}
    layers = [layer for layer in range(NUM_LAYERS + 1) if layer % max_layers in phases]
    costs: dict[tuple[int, int], float] = {}
    for server in servers:
        inside = [cut for cut in layers if server.span.start <= cut <= server.span.end]
        for place, start in enumerate(inside):
            for end in inside[place + 1 :]:
                if end - start > max_layers:
                    break
                cost_s = server.hop_s + (end - start) * server.layer_s
                costs[start, end] = min(cost_s, costs.get((start, end), cost_s))
    graph = networkx.DiGraph()
    graph.add_weighted_edges_from((start, end, cost) for (start, end), cost in costs.items())
    networkx.dijkstra_path(graph, 0, NUM_LAYERS)


def measure_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def compare(swarm: str, servers: Sequence[RouteServer], max_layers: int | None) -> Row:
    planner_ms, networkx_ms, draw = [], [], random.Random(2)
    for _ in range(ROUNDS):
        planner_ms.append(
            measure_ms(
                lambda: plan_route(
                    servers, num_layers=NUM_LAYERS, max_layers_per_hop=max_layers, draw=draw
                )
            )
        )
        networkx_ms.append(
            measure_ms(lambda: search_with_networkx(servers, max_layers or NUM_LAYERS))
        )
    ratios = [other / own for own, other in zip(planner_ms, networkx_ms, strict=True)]
    return Row(
        swarm,
        len(servers),
        max_layers,
        statistics.median(planner_ms),
        statistics.median(networkx_ms),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    rng = random.Random(1)
    rows = [
        compare(name, draw(rng, count), max_layers)
        for name, draw in (("whole models", draw_whole), ("4 to 16 layers", draw_parts))
        for count in (40, 200)
        for max_layers in (None, 8)
    ]
    if parser.parse_args().json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{NUM_LAYERS} layers; CPU milliseconds, medians of {ROUNDS} rounds")
    for row in rows:
        limit = row.max_layers_per_hop or "any"
        print(
            f"{row.hosters:4} hosters of {row.swarm:14}  at most {limit:>3} a hop: "
            f"{row.planner_ms:6.1f} ms, networkx {row.networkx_ms:6.1f} ms, "
            f"{row.ratio:.1f} times ({row.lowest:.1f} to {row.highest:.1f})"
        )


if __name__ == "__main__":
    main()
