"""Which peer's quota a session uses, and which share of a hoster it may take.

A session at the first hop uses the quota of the client that opens it. At a later hop it uses no
quota if the hop before is a member (a node that the chain knows), because a hoster passes on the
sessions of many clients. A peer that is no member may claim to be the hop before, so it is counted
as a client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keys.peer import PeerId

IsMember = Callable[[PeerId], bool]
"""Whether a peer is a node that the chain knows. It is called for every session, so it is fast."""


@dataclass(frozen=True, slots=True)
class Account:
    """Which quota a session uses.

    ``client`` is the peer whose quota is used; None uses none. A session with ``is_member`` False
    may not take the part of the cache and of the sessions that is kept for members. A higher
    ``priority`` computes first.
    """

    client: PeerId | None
    is_member: bool = True
    priority: int = 0


OWN_ACCOUNT = Account(None)
"""The account of this hoster's own work."""


class Accounts:
    """Finds the account of a new session.

    ``rank`` gives a caller's priority. Without ``is_member`` every peer counts as a member.
    """

    def __init__(
        self,
        *,
        rank: Callable[[PeerId], int] | None = None,
        is_member: IsMember | None = None,
    ) -> None:
        self._rank = rank
        self._is_member = is_member

    def find(self, caller: PeerId, *, is_first: bool) -> Account:
        """Return the account of a session that ``caller`` opens at the first hop or a later one."""
        is_member = self._is_member is None or self._is_member(caller)
        if not is_first:
            return Account(None if is_member else caller, is_member)
        return Account(caller, is_member, 0 if self._rank is None else self._rank(caller))
