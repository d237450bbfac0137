"""Strangers who keep on breaking rules are dropped for a while.

Pure: the clock is an argument. A peer has a budget of offences that refills slowly. Forged and
malformed requests cost much of it, too many requests little, since a busy client may do that. One
that has used its budget is not answered for ``DROP_S``. When it comes back its connection is closed
again, but only now and then, since a handshake costs us as much as it. Members are never dropped:
what they may use is limited anyway, and the swarm needs their records. The peer is the connection's
authenticated one, so no peer can spend another's budget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from keys.peer import PeerId
from mesh.p2p.rpc_guard import MAX_TRACKED_PEERS, IsMember, RpcReason

DROP_S = 60.0
RETURN_S = 5.0
"""A dropped peer that keeps coming back is disconnected again after this long. Its handshake costs
p2pd 2 ms, as much as ten of its streams that are turned away."""
BUDGET = 64.0
REFILL_PER_S = 1.0
FORGED, PUSHY = 8.0, 1.0
"""What an offence costs: bytes that no honest peer sends; more than a peer may have."""

_COSTS: dict[str, float] = {
    RpcReason.MALFORMED: FORGED,
    RpcReason.WRONG_SERVER: FORGED,
    RpcReason.WRONG_CLIENT: FORGED,
    RpcReason.REPLAYED: FORGED,
    RpcReason.BAD_SIGNATURE: FORGED,
    RpcReason.TOO_LARGE: FORGED,
    RpcReason.TIMEOUT: FORGED,
    RpcReason.RATE: PUSHY,
    RpcReason.BUSY: PUSHY,
}


class Offenders:
    """Who is dropped. ``on_drop`` is called at each drop, ``on_return`` when that peer is back."""

    def __init__(
        self,
        *,
        is_member: IsMember | None = None,
        on_drop: Callable[[PeerId], None] = lambda peer: None,
        on_return: Callable[[PeerId], None] = lambda peer: None,
        max_peers: int = MAX_TRACKED_PEERS,
    ) -> None:
        self._is_member = is_member
        self._on_drop = on_drop
        self._on_return = on_return
        self._max_peers = max_peers
        # What is left of each budget and when it was; of too many the oldest is forgotten.
        self._budgets: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()
        # Until when each is dropped, and when it was disconnected last.
        self._dropped: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def note(self, peer: PeerId, reason: str, *, now_s: float) -> None:
        """Count a refusal against ``peer``, and drop it when its budget is used."""
        cost = _COSTS.get(reason, 0.0)
        if not cost or (self._is_member is not None and self._is_member(peer)):
            return
        left, at_s = self._budgets.pop(peer, (BUDGET, now_s))
        left = min(BUDGET, left + max(0.0, now_s - at_s) * REFILL_PER_S) - cost
        if left > 0:
            self._budgets[peer] = (left, now_s)
            _forget_oldest(self._budgets, self._max_peers)
            return
        self._dropped[peer] = (now_s + DROP_S, now_s)
        self._dropped.move_to_end(peer)
        _forget_oldest(self._dropped, self._max_peers)
        self._on_drop(peer)

    def is_dropped(self, peer: PeerId, *, now_s: float) -> bool:
        """Whether ``peer`` gets no answer now."""
        until_s, _ = self._dropped.get(peer, (now_s, now_s))
        return until_s > now_s

    def turn_away(self, peer: PeerId, *, now_s: float) -> bool:
        """Return ``is_dropped`` for a peer that asks for something."""
        if not self.is_dropped(peer, now_s=now_s):
            self._dropped.pop(peer, None)
            return False
        until_s, disconnected_s = self._dropped[peer]
        if now_s - disconnected_s >= RETURN_S:
            self._dropped[peer] = (until_s, now_s)
            self._on_return(peer)
        return True


def _forget_oldest(table: OrderedDict[PeerId, tuple[float, float]], size: int) -> None:
    while len(table) > size:
        table.popitem(last=False)
