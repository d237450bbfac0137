"""Every call of the pallet has a command or is listed here, and both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import subnet
from devchain.config import DevChainConfig
from devchain.server import DevChain
from subnet.chain.codec import ChainRuntime
from subnet.chain.failures import RAW_ERRORS, make_failure
from subnet.chain.substrate import SubstrateChain
from tests.support.chopsticks import REAL_RUNTIME_MARKS

RAW_CALLS = frozenset(
    {
        # Delegated stake that moves on, or is given away.
        "swap_delegate_stake",
        "transfer_delegate_stake",
        "donate_delegate_stake",
        "swap_node_delegate_stake",
        "transfer_node_delegate_stake",
        "donate_node_delegate_stake",
        "swap_from_node_to_subnet",
        "swap_from_subnet_to_node",
        "update_swap_queue",
        "transfer_delegate_account",
        "remove_delegate_balance",
        # Before a subnet is activated, and in an emergency.
        "owner_add_or_update_initial_coldkeys",
        "owner_remove_initial_coldkeys",
        "owner_set_emergency_validator_set",
        "owner_revert_emergency_validator_set",
        # What no part of this client reads.
        "update_unique",
        "update_non_unique",
        "remove_identity",
    }
)
DEVELOPMENT_CALLS = frozenset({"activate_subnet_node"})
"""Of the original flow, which the development chain has too."""
GOVERNANCE = re.compile(r"(set|collective)_.+|pause|unpause|.*overwatch.*")


def find_offered(names: set[str]) -> set[str]:
    """Return those of ``names`` that stand as a whole text in the code of the package."""
    assert subnet.__file__ is not None
    texts: set[str] = set()
    for path in Path(subnet.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return {name for name in names if name in texts or name.startswith("owner_update_")}


@pytest.fixture(params=["devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)])
async def runtime(request: pytest.FixtureRequest) -> AsyncIterator[ChainRuntime]:
    async with AsyncExitStack() as stack:
        if request.param == "real runtime":
            url = request.getfixturevalue("real_runtime")
        else:
            devchain = await stack.enter_async_context(DevChain.open(DevChainConfig()))
            url = devchain.url
        chain = await stack.enter_async_context(SubstrateChain.open(url))
        yield await chain.query(lambda session: session.runtime)


async def test_every_call_has_a_command_or_is_raw(runtime: ChainRuntime) -> None:
    calls = {*runtime.list_calls("Network")} | DEVELOPMENT_CALLS
    known = {name for name in calls if not GOVERNANCE.fullmatch(name)}
    offered = find_offered(known)
    assert offered.isdisjoint(RAW_CALLS)
    assert offered | RAW_CALLS == known


async def test_every_error_has_a_sentence_or_is_raw(runtime: ChainRuntime) -> None:
    errors = {*runtime.list_errors("Network")}
    explained = {name for name in errors if make_failure(name, call="c").detail != "c"}
    assert explained.isdisjoint(RAW_ERRORS)
    assert explained | RAW_ERRORS == errors
