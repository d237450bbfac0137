"""Which blocks a hoster takes, and when it moves: pure rules over what servers announce.

A swarm answers as fast as its weakest block, so a newcomer takes the adjacent blocks that are
served worst. The idea is Petals' (Borzunov et al., 2023, "Distributed Inference and Fine-tuning
of Large Language Models Over The Internet": balance by the throughput of each block,
and move when the whole swarm gains enough). Here it is integer arithmetic without draws, so that
everybody who knows the same heartbeats comes to the same answer:

- a server gives each of its blocks ``throughput / blocks``: rows a second through its range;
- a newcomer compares ranges by their sorted block rates, weakest first; between equals the
  lower start wins;
- a server moves only if each of its blocks stays served by another that is online, if the
  weakest block of the swarm gains a quarter (or fewer blocks stay unserved), and if it is its turn:
  of those whose blocks are all served by others too, one an epoch, drawn by hash.

Heartbeats are unproven words. A server that boasts would keep others away from its blocks, so a
rate counts at most ``MAX_BOAST`` times the median one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from keys.peer import PeerId
from mesh.model.config import BlockSpan

MILLI = 1000
"""Rates are integers: thousandths of a row a second."""
MAX_BOAST = 4
MIN_GAIN_PERCENT = 25
"""A move pays for its pause only if the weakest block gains this much."""


@dataclass(frozen=True, slots=True)
class PlacedServer:
    """A hoster as it announces itself.

    ``throughput`` is in rows through one block per second, 0 while it is not measured; one that
    ``is_online`` serves, another is still loading the blocks that it chose.
    """

    peer_id: PeerId
    span: BlockSpan
    throughput: int
    is_online: bool = True


def choose_span(servers: Sequence[PlacedServer], *, num_blocks: int, length: int) -> BlockSpan:
    """Return the ``length`` adjacent blocks that the others serve worst.

    ``servers`` are all others, those still loading included: what they chose is taken. Raises
    ValueError if ``length`` is not from 1 to ``num_blocks``.
    """
    if not 0 < length <= num_blocks:
        raise ValueError(f"{length} of {num_blocks} blocks cannot be served")
    rates = compute_block_rates(servers, num_blocks=num_blocks)
    starts = range(num_blocks - length + 1)
    start = min(starts, key=lambda start: (sorted(rates[start : start + length]), start))
    return BlockSpan(start, start + length)


def compute_block_rates(servers: Sequence[PlacedServer], *, num_blocks: int) -> tuple[int, ...]:
    """Return for each block the rows a second that all servers together take, in thousandths."""
    rates = [0] * num_blocks
    limit = _compute_boast_limit(servers)
    for server in servers:
        rate = _compute_rate(server, limit)
        for block in range(server.span.start, min(server.span.end, num_blocks)):
            rates[block] += rate
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
    servers: Sequence[PlacedServer], own: PlacedServer, *, num_blocks: int, epoch: int
) -> BlockSpan | None:
    """Return the range of the same length that ``own`` should move to; None to stay.

    ``servers`` are all hosters known; ``own`` counts once whether or not it is among them.
    """
    others = [server for server in servers if server.peer_id != own.peer_id]
    swarm = [*others, own]
    if not _is_spare(own, others) or draw_mover(swarm, epoch=epoch) != own.peer_id:
        return None
    target = choose_span(others, num_blocks=num_blocks, length=len(own.span))
    moved = PlacedServer(own.peer_id, target, own.throughput)
    before = compute_block_rates(swarm, num_blocks=num_blocks)
    after = compute_block_rates([*others, moved], num_blocks=num_blocks)
    return target if target != own.span and _is_worth_it(before, after) else None


def draw_mover(servers: Sequence[PlacedServer], *, epoch: int) -> PeerId | None:
    """Return whose turn to move it is in ``epoch``, so that a gap does not draw everybody.

    Drawn among those whose blocks would all stay served without them; None if there are none.
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
    """Whether every block of an online server is served by another one that is online."""
    spans = [other.span for other in others if other.is_online]
    blocks = range(server.span.start, server.span.end)
    return server.is_online and all(any(block in span for span in spans) for block in blocks)


def _is_worth_it(before: Sequence[int], after: Sequence[int]) -> bool:
    gaps_before, gaps_after = before.count(0), after.count(0)
    if gaps_before != gaps_after:
        return gaps_after < gaps_before
    return 100 * min(after) > (100 + MIN_GAIN_PERCENT) * min(before)
