"""On whose account a session stands: whom it is counted against, and what it may take.

A hoster passes on the sessions of many clients, so what it opens as the hop before is not
counted against it. But anybody may write a route in which it is the hop before: only members,
the nodes that the chain knows, are believed to be hosters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keys.peer import PeerId

IsMember = Callable[[PeerId], bool]
"""Whether a peer is a node that the chain knows; quick, and asked at every session."""


@dataclass(frozen=True, slots=True)
class Account:
    """``client`` is counted against its own limit; None: a hoster passes on others' work.

    Who is not ``is_member`` leaves a part of the cache and of the sessions to members.
    """

    client: PeerId | None
    is_member: bool = True
    priority: int = 0


OWN_ACCOUNT = Account(None)
"""This hoster's own work."""


class Accounts:
    """Tells accounts apart. Without ``is_member`` everybody is taken for a member.

    ``rank`` gives a caller's priority: a higher number computes first.
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
