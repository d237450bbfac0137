"""Allow and deny lists of peer ids, and the order in which callers are served.

A list is a text file with one peer id a line; ``#`` starts a comment. With an allow list only its
peers are served, with a deny list all others; both together serve the allowed who are not denied.
They are read again on SIGHUP; a file that is then broken changes nothing. Sessions that are open
go on.

Some things stay reachable whatever the lists say, because the swarm needs them: ``mesh.info`` and
``mesh.directory``, by which every peer finds the others; ``records/fetch``, because records are
public; and the nodes that the chain names in the subnet, which hand sessions on.

A priority is a function ``(PeerId) -> int``; a higher number computes first. It comes from
``--priority module:function``, or from ``--priority name`` of an installed entry point in the
group ``mesh.priority``:

    # my_callers.py, run with --priority my_callers:rank
    from keys.peer import PeerId

    FRIENDS = {"12D3KooWBhV6kfbM9aDgJ2SpBsYVvVTkv2zRNHLrzmYCH4CDmwUQ"}

    def rank(caller: PeerId) -> int:
        return 10 if str(caller) in FRIENDS else 0
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from keys.errors import BadPeerId
from keys.peer import PeerId
from mesh.errors import PeerRefusal
from mesh.p2p.record_exchange import FETCH_METHOD
from mesh.p2p.rpc_guard import RpcReason
from mesh.routing.directory import DIRECTORY_METHOD
from mesh.routing.info import INFO_METHOD
from subnet.errors import ConfigError

MAX_LIST_BYTES = 4 << 20
MAX_LIST_PEERS = 65_536
MAX_PRIORITY = 1_000_000
PRIORITY_GROUP = "mesh.priority"
OPEN_METHODS = frozenset({INFO_METHOD, DIRECTORY_METHOD, FETCH_METHOD})

Rank = Callable[[PeerId], int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may call. ``allowed`` None admits everybody who is not ``denied``."""

    allowed: frozenset[PeerId] | None = None
    denied: frozenset[PeerId] = frozenset()

    def admits(self, caller: PeerId) -> bool:
        """Say whether the lists let ``caller`` in."""
        return caller not in self.denied and (self.allowed is None or caller in self.allowed)


class AccessGate:
    """The rules in force. ``check`` is the host's admission policy."""

    def __init__(
        self,
        allow_file: Path | None,
        deny_file: Path | None,
        *,
        is_member: Callable[[PeerId], bool],
    ) -> None:
        """Read the files. Raises ConfigError."""
        self._allow_file = allow_file
        self._deny_file = deny_file
        self._is_member = is_member
        self._rules = load_rules(allow_file, deny_file)

    def check(self, caller: PeerId, method: str) -> None:
        """Raise PeerRefusal unless ``caller`` may use ``method``."""
        if method in OPEN_METHODS or self._rules.admits(caller) or self._is_member(caller):
            return
        raise PeerRefusal(caller, RpcReason.NOT_ADMITTED, "this operator does not serve you")

    def reload(self) -> None:
        """Read the files again; keep the rules in force if one of them is broken."""
        try:
            self._rules = load_rules(self._allow_file, self._deny_file)
        except ConfigError as error:
            logger.error("the access lists stay as they were: %s", error)
        else:
            logger.info("the access lists were read again")


def load_rules(allow_file: Path | None, deny_file: Path | None) -> AccessRules:
    """Read the lists. Raises ConfigError naming file and line."""
    allowed = None if allow_file is None else load_peer_list(allow_file)
    denied = frozenset[PeerId]() if deny_file is None else load_peer_list(deny_file)
    return AccessRules(allowed, denied)


def load_peer_list(path: Path) -> frozenset[PeerId]:
    """Read the peer ids of one list. Raises ConfigError naming file and line."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LIST_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the peer list {path} cannot be read: {error}", "give a readable text file"
        ) from error
    if len(raw) > MAX_LIST_BYTES:
        raise ConfigError(f"{path} is too long for a peer list", "list fewer peers")
    peers = set()
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.partition("#")[0].strip()
        if entry:
            peers.add(_parse_entry(entry, f"{path}:{number}"))
    if len(peers) > MAX_LIST_PEERS:
        raise ConfigError(f"{path} lists more than {MAX_LIST_PEERS} peers", "list fewer peers")
    return frozenset(peers)


def _parse_entry(entry: str, place: str) -> PeerId:
    try:
        return PeerId.from_base58(entry)
    except BadPeerId as error:
        raise ConfigError(
            f"{place}: {entry[:80]!r} is not a peer id",
            "write one peer id a line, such as 12D3KooW…",
        ) from error


def load_priority(name: str) -> Rank:
    """Find the function that ranks callers, and make it safe to call. Raises ConfigError."""
    rank = _import_function(name) if ":" in name else _find_entry_point(name)
    if not callable(rank):
        raise ConfigError(f"--priority: {name} is not a function", "name one that takes a PeerId")
    return make_safe_rank(rank, name)


def make_safe_rank(rank: Callable[[PeerId], object], name: str) -> Rank:
    """Return ``rank`` with 0 for whatever it fails at, and numbers cut to ``MAX_PRIORITY``.

    The function is the operator's, not ours: its failure must not end a stranger's request.
    """

    def call(caller: PeerId) -> int:
        try:
            value = rank(caller)
        except Exception:
            logger.exception("the priority function %s failed", name)
            return 0
        if not isinstance(value, int):
            logger.error("the priority function %s returned %s", name, type(value).__name__)
            return 0
        return max(-MAX_PRIORITY, min(MAX_PRIORITY, int(value)))

    return call


def _import_function(name: str) -> object:
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--priority: {name} cannot be imported: {error}",
            "write module:function, of a module on PYTHONPATH",
        ) from error


def _find_entry_point(name: str) -> object:
    found = entry_points(group=PRIORITY_GROUP, name=name)
    for entry in found:
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"--priority: {name} cannot be loaded: {error}", "install its package again"
            ) from error
    known = sorted(entry.name for entry in entry_points(group=PRIORITY_GROUP))
    raise ConfigError(
        f"--priority: no entry point {name!r} in {PRIORITY_GROUP}",
        f"installed are: {', '.join(known)}" if known else "write module:function",
    )
