"""How others reach a node is asked for ever, and told when it changes, with what to do."""

from __future__ import annotations

import structlog

from mesh.p2p.dial_back import DialBack, DialStatus, Reach
from subnet.doctor.reach import ReachWatch
from tests.subnet.doctor.test_in_node import (
    NOT_REACHED,
    PRIVATE,
    PUBLIC,
    REACHED,
    REFUSED,
    RELAYED,
    Peers,
    make_exam,
)


class Node:
    """A node whose peers say what ``dials`` says."""

    def __init__(self) -> None:
        self.dials: tuple[DialBack | None, ...] = (REFUSED,)
        self.addresses: tuple[str, ...] = (f"{PUBLIC}/p2p/x",)
        self.watch = ReachWatch(
            lambda: make_exam(peers=Peers(dials=self.dials), addresses=lambda: self.addresses)
        )

    async def ask(self) -> list[tuple[str, str, str]]:
        """Return the log's lines: level, event and fix."""
        with structlog.testing.capture_logs() as lines:
            await self.watch.ask()
        return [(line["log_level"], line["event"], line.get("fix", "")) for line in lines]


async def test_a_change_is_told_once_with_the_option_that_helps() -> None:
    node = Node()
    assert await node.ask() == []
    assert node.watch.reach is Reach.UNKNOWN
    node.dials = (NOT_REACHED,)
    ((level, event, fix),) = await node.ask()
    assert (level, event) == ("warning", "no peer can dial this node")
    assert "--public-ip IP --port PORT" in fix
    assert "--auto-relay" in fix
    assert await node.ask() == []
    node.addresses = (f"{PUBLIC}/p2p/x", RELAYED)
    ((level, event, _),) = await node.ask()
    assert (level, event) == ("info", "peers reach this node through a relay")
    node.dials = (NOT_REACHED, REACHED)
    ((level, event, _),) = await node.ask()
    assert (level, event) == ("info", "peers can dial this node")
    assert node.watch.reach is Reach.DIRECT


async def test_peers_that_do_not_try_change_no_verdict() -> None:
    node = Node()
    node.dials = (DialBack(DialStatus.REACHED, ""),)
    await node.ask()
    node.dials = (REFUSED,)
    assert await node.ask() == []
    assert node.watch.reach is Reach.DIRECT


async def test_a_relayed_node_with_home_addresses_is_reached_through_its_relay() -> None:
    node = Node()
    node.addresses = (PRIVATE, RELAYED)
    await node.ask()
    assert node.watch.reach is Reach.RELAYED


async def test_a_node_without_any_address_is_told_to_be_unreachable() -> None:
    node = Node()
    node.addresses = ()
    ((level, _, fix),) = await node.ask()
    assert level == "warning"
    assert "--auto-relay" in fix
