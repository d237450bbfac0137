"""Every chain that the contract tests run against: ledger, development chain, real runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devchain.chain_types import ActivationMode
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.ledger import Ledger
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from tests.support.chain_rigs import (
    OWNER,
    ActiveSubnet,
    Chain,
    LedgerRig,
    Rig,
    WireRig,
    register_four,
    wait_for_election,
)
from tests.support.chopsticks import REAL_RUNTIME_MARKS
from tests.support.ledger_chain import LedgerBlocks

SEED = b"contract"


@pytest.fixture(
    params=["ledger", "devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)],
)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    rules = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    if request.param == "real runtime":
        async with WireRig.connect(request.getfixturevalue("real_runtime")) as real:
            yield real
    elif request.param == "devchain":
        async with DevChain.open(
            DevChainConfig(ledger=rules, mode=BlockMode.INSTANT, seed=SEED)
        ) as devchain:
            async with WireRig.connect(devchain.url) as wire:
                yield wire
    else:
        yield LedgerRig(LedgerBlocks(Ledger(rules)))


@pytest.fixture
async def chain(rig: Rig) -> AsyncIterator[Chain]:
    async with rig.open() as opened:
        yield opened


@pytest.fixture
async def active(rig: Rig, chain: Chain, request: pytest.FixtureRequest) -> ActiveSubnet:
    subnet_id, hotkeys = await register_four(rig, request.node.name)
    await rig.activate_subnet(subnet_id, OWNER)
    epoch, elected = await wait_for_election(rig, chain, subnet_id)
    return ActiveSubnet(subnet_id, hotkeys, epoch, elected)
