"""What a node looks after while it runs: its addresses, its connections, its hotkey's balance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from mesh.errors import MeshError
from mesh.p2p.addresses import choose_announced
from mesh.routing.directory import Directory
from subnet.account.money import MIN_HOTKEY_BALANCE, fetch_stake
from subnet.account.standing import Standing
from subnet.doctor.reach import OPEN_PORT, USE_RELAY
from subnet.node.parts import NodeParts
from subnet.operator.vitals import Vitals

CONNECT_PERIOD_S = 10.0
ADDRESSES_PERIOD_S = 15.0

logger = structlog.get_logger(__name__)


class AnnouncedAddresses:
    """The addresses at which others dial this node. ``announced`` is empty before ``find``."""

    def __init__(self, parts: NodeParts) -> None:
        self._config = parts.prepared.config
        self._initial_peers = parts.initial_peers
        self._host = parts.host
        self._seen: Sequence[str] = ()
        self.announced: tuple[str, ...] = ()

    async def find(self) -> None:
        """Find the addresses to announce: none of a home, unless the operator asked for it."""
        config = self._config
        self._seen = await self._host.list_addresses()
        self.announced = choose_announced(
            self._seen,
            asked=(*config.get_host_maddrs(), *config.get_announce_maddrs()),
            known=self._initial_peers,
        )
        if not self.announced:
            logger.warning(
                "no address is announced: those of this network are kept private",
                fix=f"{OPEN_PORT}{USE_RELAY}",
            )

    async def follow(self, notify: Callable[[], None]) -> None:
        """Announce at once what has changed: a relay came or went."""
        while True:
            await asyncio.sleep(ADDRESSES_PERIOD_S)
            if await self._host.list_addresses() != self._seen:
                await self.find()
                logger.info("the addresses have changed", addresses=list(self.announced))
                notify()


async def keep_connected(directory: Directory) -> None:
    """Dial the servers that are known, so that a hop to one of them costs no search."""
    while True:
        for server in directory.list_servers():
            try:
                await directory.ensure_connected(server.peer_id)
            except MeshError as error:
                logger.debug("a server cannot be dialled", detail=str(error))
        await asyncio.sleep(CONNECT_PERIOD_S)


async def read_hotkey(parts: NodeParts, standing: Standing | None, vitals: Vitals) -> None:
    """Take what the hotkey has, from where the node stands; warn if that pays no fee."""
    hotkey, chain = parts.prepared.hotkey, parts.chain
    if hotkey is None:
        return
    if standing is not None and standing.node.hotkey == hotkey.account_id:
        vitals.balance, vitals.stake = standing.hotkey_balance, standing.stake
    else:
        vitals.balance = await chain.fetch_balance(hotkey.account_id)
        vitals.stake = await fetch_stake(chain, hotkey.account_id, parts.subnet.terms.subnet_id)
    if vitals.balance < MIN_HOTKEY_BALANCE:
        logger.warning(
            "the hotkey cannot pay a fee, so proposals and attestations will be refused",
            hotkey=hotkey.address,
            fix=f"mesh chain transfer --to {hotkey.address} --amount 0.1 --key-file COLDKEY",
        )
