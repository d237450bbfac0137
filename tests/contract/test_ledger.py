"""The ledger against the real runtime: the same extrinsics, then every stored value compared.

The election is the one thing that differs, because its randomness does; the development
chain is told whom the real one elected.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consensus.types import NodeClass
from devchain import calls, items
from devchain.config import BlockMode, DevChainConfig, fund_development_accounts
from devchain.extrinsics import encode_signed
from devchain.runtime import LedgerConfig
from devchain.server import DevChain
from devchain.state import Item
from devchain.storage_keys import hash_key, parse_key, twox
from devchain.values import (
    TENSOR,
    ActivationMode,
    DelegateAccount,
    PeerInfo,
    SubnetNodeConsensusData,
    SwapToNodeDelegateStake,
    SwapToSubnetDelegateStake,
)
from keys.account import AccountKey, derive_development_account
from tests.devchain.test_wire_format import sign_with
from tests.support import chopsticks, ledger_world
from tests.support.ledger_world import (
    FIRST_SUBNET,
    Wire,
    multiaddr,
    node_call,
    peer_text,
    serve_in_thread,
    subnet_data,
)

RUNTIME_WAIT_S = 240
KEYS_PAGE = 500
NETWORK_PREFIX = "0x" + twox(b"Network", bits=128).hex()
COLDKEYS = [derive_development_account(index) for index in range(6)]
HOTKEYS = [derive_development_account(10 + index) for index in range(5)]
NODES = (1, 2, 3, 4)

pytestmark = [
    pytest.mark.chain,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        chopsticks.find_missing() is not None, reason=str(chopsticks.find_missing())
    ),
]


class Side:
    """One of the two chains, through raw JSON-RPC."""

    def __init__(self, url: str) -> None:
        self.wire = Wire(url)
        self.genesis = bytes.fromhex(self.wire.get("chain_getBlockHash", 0)[2:])

    @property
    def height(self) -> int:
        return int(self.wire.get("chain_getHeader")["number"], 16)

    def submit(self, signer: AccountKey, call: calls.Call) -> None:
        """Sign, submit, and wait for the block that the extrinsic makes."""
        before = self.height
        account = "0x" + signer.account_id.hex()
        raw = self.wire.get("state_call", "AccountNonceApi_account_nonce", account)
        extrinsic = encode_signed(
            call,
            signer=signer.account_id,
            nonce=int.from_bytes(bytes.fromhex(raw[2:]), "little"),
            genesis_hash=self.genesis,
            sign=sign_with(signer),  # type: ignore[arg-type]
        )
        self.wire.get("author_submitExtrinsic", "0x" + extrinsic.hex())
        deadline = time.monotonic() + RUNTIME_WAIT_S
        while self.height == before:
            assert time.monotonic() < deadline, "no block came"
            time.sleep(0.01)

    def go(self, number: int) -> None:
        if number > self.height:
            self.wire.get("dev_newBlock", {"count": number - self.height})

    def read(self) -> dict[str, str]:
        """Return every stored value of the pallet, and the accounts in use."""
        found: dict[str, str] = {}
        start: list[str] = []
        while True:
            page = self.wire.get("state_getKeysPaged", NETWORK_PREFIX, KEYS_PAGE, *start)
            found |= {key: self.wire.get("state_getStorage", key) for key in page}
            if len(page) < KEYS_PAGE:
                break
            start = [page[-1]]
        for account in (*COLDKEYS, *HOTKEYS):
            key = "0x" + hash_key(items.ACCOUNT, (account.account_id,)).hex()
            found[key] = self.wire.get("state_getStorage", key)
        return found


@dataclass
class Pair:
    """The real runtime and the development chain, kept at one height."""

    real: Side
    mine: Side
    devchain: DevChain
    compared: int = 0
    steps: list[str] = field(default_factory=list)

    def submit(self, signer: AccountKey, call: calls.Call) -> None:
        self.real.submit(signer, call)
        self.mine.submit(signer, call)
        assert self.real.height == self.mine.height

    def go(self, number: int) -> None:
        self.real.go(number)
        self.mine.go(number)

    def set_number(self, item: Item[int], value: int) -> None:
        """Set a plain u32 or u128 parameter of both chains, as the council would."""
        key = "0x" + hash_key(item, ()).hex()
        self.real.wire.get("dev_setStorage", [[key, "0x" + item.kind.encode(value).hex()]])
        self.devchain.chain.ledger.state.put(item, value=value)

    def adopt_election(self, epoch: int) -> int | None:
        """Tell the development chain whom the real one elected; None if nobody yet."""
        key = hash_key(items.SUBNET_ELECTED_VALIDATOR, (FIRST_SUBNET, epoch))
        raw = self.real.wire.get("state_getStorage", "0x" + key.hex())
        if raw is None:
            return None
        elected = int.from_bytes(bytes.fromhex(raw[2:]), "little")
        state = self.devchain.chain.ledger.state
        state.put(items.SUBNET_ELECTED_VALIDATOR, FIRST_SUBNET, epoch, value=elected)
        return elected

    def check_equal(self, step: str) -> None:
        """Compare every value of every item that the development chain has."""
        self.adopt_election(max(0, self.real.height - 3) // 20)
        real, mine = self.real.read(), self.mine.read()
        for key in sorted(real.keys() | mine.keys()):
            parsed = parse_key(bytes.fromhex(key[2:]))
            if parsed is None:
                continue
            item, parts = parsed
            default = None
            if item.default is not None:
                default = "0x" + item.kind.encode(item.default).hex()
            pair = (real.get(key) or default, mine.get(key) or default)
            assert pair[0] == pair[1], f"{step}: {item.name}{parts}"
            self.compared += 1
        self.steps.append(step)


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    ledger = LedgerConfig(
        activation_mode=ActivationMode.AUTOMATIC, balances=fund_development_accounts()
    )
    config = DevChainConfig(ledger=ledger, mode=BlockMode.INSTANT)
    directory: Path = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_world, "WAIT_S", RUNTIME_WAIT_S)
        with chopsticks.run_chopsticks(directory) as url, serve_in_thread(config) as devchain:
            both = Pair(Side(url), Side(devchain.url), devchain)
            both.mine.go(both.real.height)
            yield both


def run_epoch(
    pair: Pair,
    epoch: int,
    *,
    scores: dict[int, int],
    attestors: int,
    offset: int = 0,
) -> None:
    """Propose ``scores`` at an offset, let some others attest, compare before and after."""
    pair.go(epoch * 20 + 3)
    elected = pair.adopt_election(epoch)
    assert elected is not None
    pair.check_equal(f"slot of epoch {epoch}")
    pair.go(epoch * 20 + 3 + offset)
    data = tuple(SubnetNodeConsensusData(node_id, score) for node_id, score in scores.items())
    pair.submit(HOTKEYS[elected - 1], calls.ProposeAttestation(FIRST_SUBNET, data, args=b"x"))
    for node_id in [node_id for node_id in NODES if node_id != elected][:attestors]:
        pair.submit(HOTKEYS[node_id - 1], calls.Attest(FIRST_SUBNET, b"seen"))
    pair.check_equal(f"submission of epoch {epoch}")


def start_subnet(pair: Pair) -> int:
    """Register and activate a subnet of four, with delegators; return its first elected epoch."""
    for hotkey in HOTKEYS:
        pair.submit(COLDKEYS[0], calls.TransferKeepAlive(hotkey.account_id, 10**16))
    coldkeys = {key.account_id: 1 for key in COLDKEYS[:5]}
    data = subnet_data(initial_coldkeys=coldkeys, bootnodes={peer_text(250): multiaddr(250)})
    pair.submit(COLDKEYS[0], calls.RegisterSubnet(10 * TENSOR, data))
    for index in range(4):
        # One node shares with delegators, one with a delegate account.
        delegate = DelegateAccount(b"\x07" * 20, TENSOR // 5) if index == 2 else None
        node = node_call(
            index,
            hotkey=HOTKEYS[index].account_id,
            stake_to_be_added=(100 + index) * TENSOR,
            peer_info=PeerInfo(peer_text(index + 1), multiaddr(index + 1)),
            delegate_reward_rate=TENSOR // 10 if index == 1 else 0,
            delegate_account=delegate,
        )
        pair.submit(COLDKEYS[index], node)
    pair.check_equal("registered")
    pair.submit(COLDKEYS[0], calls.ActivateSubnet(FIRST_SUBNET))
    pair.submit(COLDKEYS[5], calls.AddToDelegateStake(FIRST_SUBNET, 50 * TENSOR + 7))
    pair.submit(COLDKEYS[5], calls.AddToNodeDelegateStake(FIRST_SUBNET, 2, 10 * TENSOR + 3))
    pair.check_equal("activated")
    return (pair.real.height - 3) // 20 + 1


def test_every_stored_value_equals_the_real_runtimes(pair: Pair) -> None:
    epoch = start_subnet(pair)
    run_epoch(pair, epoch, scores=dict.fromkeys(NODES, TENSOR), attestors=3)
    run_epoch(pair, epoch + 1, scores=dict.fromkeys(NODES, TENSOR), attestors=1, offset=3)
    pair.submit(COLDKEYS[4], node_call(4, hotkey=HOTKEYS[4].account_id))
    run_epoch(pair, epoch + 2, scores={1: 7, 2: 11, 3: 13, 4: 0}, attestors=2, offset=1)
    pair.go((epoch + 3) * 20 + 3)
    pair.adopt_election(epoch + 3)
    pair.check_equal("nobody proposed")
    run_epoch(pair, epoch + 4, scores={}, attestors=3)
    pair.go((epoch + 5) * 20 + 3)
    pair.adopt_election(epoch + 5)
    pair.check_equal("empty data")
    assert pair.compared > 1000


def test_swaps_and_the_rate_limit_equal_the_real_runtimes(pair: Pair) -> None:
    start_subnet(pair)
    delegator, stranger = COLDKEYS[5], COLDKEYS[4]
    subnet, node = FIRST_SUBNET, FIRST_SUBNET
    for call in (
        calls.SwapFromSubnetToNode(subnet, subnet, 3, 20 * TENSOR),
        calls.SwapNodeDelegateStake(subnet, 2, node, 4, 3 * TENSOR),
        calls.SwapFromNodeToSubnet(subnet, 2, subnet, 2 * TENSOR),
        calls.SwapDelegateStake(subnet, subnet, TENSOR),
        calls.SwapDelegateStake(subnet, 7, TENSOR),
        calls.SwapFromSubnetToNode(subnet, subnet, 9, TENSOR),
        calls.SwapNodeDelegateStake(subnet, 1, node, 4, TENSOR),
        calls.SwapDelegateStake(subnet, subnet, 0),
    ):
        pair.submit(delegator, call)
        pair.check_equal(f"queued {call}")
    first = pair.devchain.chain.ledger.state.find(items.SWAP_CALL_QUEUE, 0)
    assert first is not None
    to_subnet = SwapToSubnetDelegateStake(delegator.account_id, subnet, 5)
    to_node = SwapToNodeDelegateStake(stranger.account_id, subnet, 1, 5)
    for signer, update in (
        (delegator, calls.UpdateSwapQueue(0, to_subnet)),
        (stranger, calls.UpdateSwapQueue(1, to_node)),
        (stranger, calls.UpdateSwapQueue(2, to_subnet)),
        (stranger, calls.UpdateSwapQueue(99, to_node)),
    ):
        pair.submit(signer, update)
        pair.check_equal(f"updated {update}")

    pair.set_number(items.TX_RATE_LIMIT, 2)
    pair.submit(stranger, calls.AddToDelegateStake(subnet, TENSOR))
    pair.submit(stranger, calls.AddToNodeDelegateStake(subnet, 1, TENSOR))
    pair.check_equal("too soon")
    pair.submit(stranger, calls.RemoveDelegateStake(subnet, 10**15))
    pair.submit(stranger, calls.SwapFromSubnetToNode(subnet, subnet, 1, 10**15))
    pair.submit(stranger, calls.RemoveDelegateStake(subnet, 10**15))
    pair.check_equal("late enough")
    pair.set_number(items.TX_RATE_LIMIT, 0)

    pair.set_number(items.MAX_SWAP_QUEUE_CALLS_PER_BLOCK, 1)
    begun = first.queued_at_block
    for block in range(begun + 19, begun + 26):
        pair.go(block)
        pair.check_equal(f"block {block}")


def test_the_emergency_set_equals_the_real_runtimes(pair: Pair) -> None:
    epoch = start_subnet(pair)
    owner, chosen = COLDKEYS[0], (1, 2, 2, 3, 77)
    pair.submit(COLDKEYS[4], node_call(4, hotkey=HOTKEYS[4].account_id))
    name_set = calls.OwnerSetEmergencyValidatorSet(FIRST_SUBNET, chosen)
    pause, go_on = calls.OwnerPauseSubnet(FIRST_SUBNET), calls.OwnerUnpauseSubnet(FIRST_SUBNET)
    scores = dict.fromkeys((1, 2, 3, 4, 5), TENSOR)

    # The late node becomes Idle and, in the second of these epochs that agree, Included.
    for _ in range(7):
        run_epoch(pair, epoch, scores=scores, attestors=3)
        epoch += 1
    assert (
        pair.devchain.chain.ledger.state.get(
            items.SUBNET_NODES_DATA, FIRST_SUBNET, 5
        ).classification.node_class
        is NodeClass.INCLUDED
    )

    for signer, call in (
        (owner, name_set),
        (owner, pause),
        (COLDKEYS[1], name_set),
        (owner, calls.OwnerSetEmergencyValidatorSet(FIRST_SUBNET, (1, 1, 2))),
        (owner, name_set),
        (owner, calls.OwnerUpdateAbsentDecrease(FIRST_SUBNET, TENSOR // 5)),
        (owner, calls.OwnerUpdateIncludedIncrease(FIRST_SUBNET, TENSOR // 5)),
    ):
        pair.submit(signer, call)
        pair.check_equal(f"paused {call}")
    pair.go(epoch * 20 + 3)
    pair.adopt_election(epoch)
    pair.check_equal("a slot within the pause")

    pair.submit(owner, name_set)
    pair.submit(owner, go_on)
    pair.check_equal("gone on")
    for ids in ((1, 2, 3, 4, 5), (1, 2, 3)):
        epoch += 1
        run_epoch(pair, epoch, scores=dict.fromkeys(ids, TENSOR), attestors=3)
    epoch += 1
    pair.go(epoch * 20 + 3)
    elected = pair.adopt_election(epoch)
    pair.check_equal("two emergency epochs")
    leaver = next(node_id for node_id in (1, 2, 3) if node_id != elected)
    pair.submit(COLDKEYS[leaver - 1], calls.RemoveSubnetNode(FIRST_SUBNET, leaver))
    pair.check_equal("one of the set left")
    pair.submit(owner, calls.OwnerRevertEmergencyValidatorSet(FIRST_SUBNET))
    pair.submit(COLDKEYS[1], calls.OwnerRevertEmergencyValidatorSet(FIRST_SUBNET))
    pair.check_equal("reverted")
