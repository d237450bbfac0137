"""Which layers a hoster takes, and when it moves: pure rules over what servers announce.

A swarm answers as fast as its weakest layer, so a newcomer takes the adjacent layers that are
served worst. The idea is Petals' (Borzunov et al., 2023, "Distributed Inference and Fine-tuning
of Large Language Models Over The Internet": balance by the throughput of each layer,
and move when the whole swarm gains enough). Here it is integer arithmetic without draws, so that
all nodes that know the same heartbeats come to the same answer:

- a server gives each of its layers ``throughput / layers``: rows a second through its range;
- a newcomer compares ranges by their sorted layer rates, weakest first; between equals the
  lower start wins;
- a server moves only if each of its layers stays served by another that is online, if the
  weakest layer of the swarm gains a quarter (or fewer layers stay unserved), and if it is its turn:
  of those whose layers are all served by others too, one an epoch, drawn by hash.

Heartbeats are unproven claims. A server that boasts would keep others away from its layers, so a
rate counts at most ``MAX_BOAST`` times the median one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from keys.peer import PeerId
from mesh.model.config import LayerSpan

MILLI = 1000
"""Rates are integers: thousandths of a row a second."""
MAX_BOAST = 4
MIN_GAIN_PERCENT = 25
"""A move pays for its pause only if the weakest layer gains this much."""


@dataclass(frozen=True, slots=True)
class PlacedServer:
    """A hoster as it announces itself.

    ``throughput`` is in rows through one layer per second, 0 while it is not measured; one that
    ``is_online`` serves, another is still loading the layers that it chose.
    """

    peer_id: PeerId
    span: LayerSpan
    throughput: int
    is_online: bool = True


def choose_span(servers: Sequence[PlacedServer], *, num_layers: int, length: int) -> LayerSpan:
    """Return the ``length`` adjacent layers that the others serve worst.

    ``servers`` are all others, those still loading included: what they chose is taken. Raises
    ValueError if ``length`` is not from 1 to ``num_layers``.
    """
    if not 0 < length <= num_layers:
        raise ValueError(f"{length} of {num_layers} layers cannot be served")
    rates = compute_layer_rates(servers, num_layers=num_layers)
    starts = range(num_layers - length + 1)
    start = min(starts, key=lambda start: (sorted(rates[start : start + length]), start))
    return LayerSpan(start, start + length)


def compute_layer_rates(servers: Sequence[PlacedServer], *, num_layers: int) -> tuple[int, ...]:
    """Return for each layer the rows a second that all servers together take, in thousandths."""
    rates = [0] * num_layers
    limit = _compute_boast_limit(servers)
    for server in servers:
        rate = _compute_rate(server, limit)
        for layer in range(server.span.start, min(server.span.end, num_layers)):
            rates[layer] += rate
    return tuple(rates)


def _compute_boast_limit(servers: Sequence[PlacedServer]) -> int:
    """Return the throughput that counts at most: a multiple of the lower median."""
    measured = [server.throughput for server in servers if server.throughput > 0]
    return MAX_BOAST * median_low(measured) if measured else MAX_BOAST


def _compute_rate(server: PlacedServer, limit: int) -> int:
    # What is not measured yet counts as a typical server.
    throughput = min(server.throughput, limit) or max(1, limit // MAX_BOAST)
    return max(1, throughput * MILLI // len(server.span))


def choose_move(
    servers: Sequence[PlacedServer], own: PlacedServer, *, num_layers: int, epoch: int
) -> LayerSpan | None:
    """Return the range of the same length that ``own`` should move to; None to stay.

    ``servers`` are all hosters known; ``own`` counts once whether or not it is among them.
    """
    others = [server for server in servers if server.peer_id != own.peer_id]
    swarm = [*others, own]
    if not _is_spare(own, others) or draw_mover(swarm, epoch=epoch) != own.peer_id:
        return None
    target = choose_span(others, num_layers=num_layers, length=len(own.span))
    moved = PlacedServer(own.peer_id, target, own.throughput)
    before = compute_layer_rates(swarm, num_layers=num_layers)
    after = compute_layer_rates([*others, moved], num_layers=num_layers)
    return target if target != own.span and _is_worth_it(before, after) else None


def draw_mover(servers: Sequence[PlacedServer], *, epoch: int) -> PeerId | None:
    """Return whose turn to move it is in ``epoch``, so that a gap does not draw all hosters.

    Drawn among those whose layers would all stay served without them; None if there are none.
    """
    spare = [
        server
        for server in servers
        if _is_spare(server, [other for other in servers if other.peer_id != server.peer_id])
    ]
    if not spare:
        return None
    return min(spare, key=lambda server: _draw(server.peer_id, epoch)).peer_id


def _draw(peer_id: PeerId, epoch: int) -> bytes:
    message = b"mesh/move" + epoch.to_bytes(4, "little") + peer_id.public_key
    return hashlib.sha256(message).digest()


def _is_spare(server: PlacedServer, others: Sequence[PlacedServer]) -> bool:
    """Whether every layer of an online server is served by another one that is online."""
    spans = [other.span for other in others if other.is_online]
    layers = range(server.span.start, server.span.end)
    return server.is_online and all(any(layer in span for span in spans) for layer in layers)


def _is_worth_it(before: Sequence[int], after: Sequence[int]) -> bool:
    gaps_before, gaps_after = before.count(0), after.count(0)
    if gaps_before != gaps_after:
        return gaps_after < gaps_before
    return 100 * min(after) > (100 + MIN_GAIN_PERCENT) * min(before)
