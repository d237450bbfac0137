"""How busy a hoster is, announced behind its program's name: ``mesh/0.2.0;12.3``.

12 sessions are open, and 3 of them wait for the compute thread. Nodes of earlier versions read it
as a longer name. The parts between semicolons may come in any order; unknown ones mean nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SEPARATOR = ";"
MAX_LOAD = 9999
_LOAD = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


class Load(NamedTuple):
    """Sessions that are open, and those of them whose next step waits."""

    sessions: int = 0
    waiting: int = 0

    @property
    def crowd(self) -> int:
        """Beside how many a new session computes; one that waits counts twice."""
        return self.sessions + self.waiting


def add_load(software: str, load: Load, *, max_size: int) -> str:
    """Return a heartbeat's name of the program with a load; without if it would be too long."""
    sessions, waiting = (min(number, MAX_LOAD) for number in load)
    name = f"{software}{SEPARATOR}{sessions}.{waiting}"
    return name if len(name) <= max_size else software


def read_load(software: str) -> Load:
    """Return the load that a heartbeat names; none if it names none."""
    for part in software.split(SEPARATOR)[1:]:
        if (found := _LOAD.fullmatch(part)) is not None:
            return Load(int(found[1]), int(found[2]))
    return Load()
