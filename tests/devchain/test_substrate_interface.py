"""A stock substrate-interface against the development chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from substrateinterface import Keypair, KeypairType, SubstrateInterface
from substrateinterface.exceptions import SubstrateRequestException

from devchain.calls import RegisterSubnet
from devchain.config import BlockMode, DevChainConfig
from devchain.extrinsics import encode_signed
from devchain.server import DevChain
from devchain.values import TENSOR
from keys.account import DEVELOPMENT_MNEMONIC, derive_development_account
from tests.devchain.test_wire_format import sign_with
from tests.support.ledger_world import (
    FIRST_SUBNET,
    multiaddr,
    peer_text,
    serve_in_thread,
    subnet_data,
)

EMPTY = "0x" + "77" * 20


@pytest.fixture(scope="module")
def devchain() -> Iterator[DevChain]:
    with serve_in_thread(DevChainConfig(mode=BlockMode.INSTANT)) as running:
        yield running


@pytest.fixture(scope="module")
def substrate(devchain: DevChain) -> Iterator[SubstrateInterface]:
    client = SubstrateInterface(url=devchain.url)
    yield client
    client.close()


def account(index: int) -> Keypair:
    uri = f"{DEVELOPMENT_MNEMONIC}/m/44'/60'/0'/0/{index}"
    return Keypair.create_from_uri(uri, crypto_type=KeypairType.ECDSA)


ALITH = account(0)


def submit(
    substrate: SubstrateInterface,
    signer: Keypair,
    call: tuple[str, str, dict[str, Any]],
    **how: Any,
) -> Any:
    composed = substrate.compose_call(call[0], call[1], call[2])
    extrinsic = substrate.create_signed_extrinsic(composed, signer, **how)
    return substrate.submit_extrinsic(extrinsic, wait_for_inclusion=True)


def names(receipt: Any) -> list[str]:
    return [event.value["event_id"] for event in receipt.triggered_events]


def free(substrate: SubstrateInterface, address: str) -> int:
    return int(substrate.query("System", "Account", [address]).value["data"]["free"])


def test_constants_and_properties_are_read(substrate: SubstrateInterface) -> None:
    assert substrate.properties["isEthereum"] is True
    assert substrate.get_constant("Network", "EpochLength").value == 20
    assert substrate.get_constant("Network", "ActivationMode").value == "Manual"
    assert substrate.get_constant("Balances", "ExistentialDeposit").value == 500
    assert substrate.get_constant("System", "SS58Prefix").value == 42


def test_metadata_carries_the_real_indices(substrate: SubstrateInterface) -> None:
    substrate.init_runtime()
    network = substrate.metadata.get_metadata_pallet("Network")
    assert network.value["index"] == 23
    indices = {call.name: call.value["index"] for call in network.calls}
    assert indices["register_subnet_node"] == 38
    assert indices["propose_attestation"] == 65
    assert indices["attest"] == 66
    assert indices["activate_subnet_node"] > 164
    errors = {error.name: error.value["index"] for error in network.errors}
    assert (errors["AlreadyAttested"], errors["MultiaddrTruncated"]) == (116, 164)
    extensions = list(substrate.metadata.get_signed_extensions())
    assert extensions == [
        "CheckNonZeroSender",
        "CheckSpecVersion",
        "CheckTxVersion",
        "CheckGenesis",
        "CheckMortality",
        "CheckNonce",
        "CheckWeight",
        "ChargeTransactionPayment",
    ]


def test_a_transfer_lands_with_its_events_and_fee(substrate: SubstrateInterface) -> None:
    before = free(substrate, ALITH.ss58_address)
    call = ("Balances", "transfer_keep_alive", {"dest": EMPTY, "value": TENSOR})
    receipt = submit(substrate, ALITH, call)
    assert receipt.is_success
    assert names(receipt) == [
        "Withdraw",
        "NewAccount",
        "Endowed",
        "Transfer",
        "TransactionFeePaid",
        "ExtrinsicSuccess",
    ]
    spent = before - free(substrate, ALITH.ss58_address)
    assert spent == TENSOR + receipt.total_fee_amount
    assert free(substrate, EMPTY) == TENSOR


def test_a_mortal_extrinsic_lands_and_an_expired_one_does_not(
    devchain: DevChain, substrate: SubstrateInterface
) -> None:
    call = ("System", "remark", {"remark": b"x" * 300})
    assert submit(substrate, ALITH, call, era={"period": 64}).is_success
    composed = substrate.compose_call(*call)
    extrinsic = substrate.create_signed_extrinsic(composed, ALITH, era={"period": 4})
    substrate.rpc_request("dev_newBlock", [{"count": 8}])
    with pytest.raises(SubstrateRequestException, match="bad signature"):
        substrate.submit_extrinsic(extrinsic)


def test_module_and_token_errors_come_with_their_names(substrate: SubstrateInterface) -> None:
    receipt = submit(substrate, ALITH, ("Network", "attest", {"subnet_id": 1, "attest_data": None}))
    assert not receipt.is_success
    assert receipt.error_message["name"] == "InvalidHotkeySubnetNodeId"
    too_much = {"dest": EMPTY, "value": 10**30}
    receipt = submit(substrate, ALITH, ("Balances", "transfer_keep_alive", too_much))
    assert not receipt.is_success
    too_little = {"dest": "0x" + "78" * 20, "value": 499}
    receipt = submit(substrate, ALITH, ("Balances", "transfer_keep_alive", too_little))
    assert not receipt.is_success
    assert receipt.total_fee_amount > 0


def test_maps_are_listed_page_by_page(substrate: SubstrateInterface) -> None:
    accounts = substrate.query_map("System", "Account", page_size=2)
    listed = {str(key.value) for key, _ in accounts}
    assert ALITH.ss58_address.lower() in {address.lower() for address in listed}
    assert len(listed) >= 6
    assert list(substrate.query_map("Network", "SubnetNodesData", [999])) == []


def test_missing_nodes_read_as_the_default_record(substrate: SubstrateInterface) -> None:
    node = substrate.query("Network", "SubnetNodesData", [FIRST_SUBNET, 99])
    assert node.value["id"] == 0
    assert node.meta_info["result_found"] is False
    assert substrate.query("Network", "SubnetSlot", [99]).value is None


def test_new_blocks_are_announced(substrate: SubstrateInterface) -> None:
    client = SubstrateInterface(url=substrate.url)

    substrate.rpc_request("dev_newBlock", [{"count": 1}])
    first = substrate.get_block_number(None)

    def on_head(header: dict[str, Any], update: int, _subscription: str) -> Any:
        if update == 0:
            substrate.rpc_request("dev_newBlock", [{"count": 2}])
        return header["header"]["number"] if update == 2 else None

    assert client.subscribe_block_headers(on_head) == first + 2
    client.close()


def test_state_is_read_at_old_blocks(substrate: SubstrateInterface) -> None:
    target = "0x" + "79" * 20
    before = substrate.get_chain_head()
    submit(substrate, ALITH, ("Balances", "transfer_keep_alive", {"dest": target, "value": TENSOR}))
    after = substrate.get_chain_head()
    found = [
        substrate.query("System", "Account", [target], block_hash=block).value["data"]["free"]
        for block in (before, after)
    ]
    assert found == [0, TENSOR]


def test_a_used_nonce_a_poor_account_and_a_forged_signature_are_refused_in_the_nodes_words(
    substrate: SubstrateInterface,
) -> None:
    composed = substrate.compose_call("System", "remark", {"remark": b"x"})
    stale = substrate.create_signed_extrinsic(composed, ALITH, nonce=0)
    with pytest.raises(SubstrateRequestException, match="Transaction is outdated") as refusal:
        substrate.submit_extrinsic(stale)
    assert refusal.value.args[0]["code"] == 1010
    poor = Keypair.create_from_private_key("0x" + "55" * 32, crypto_type=KeypairType.ECDSA)
    unpaid = substrate.create_signed_extrinsic(composed, poor)
    with pytest.raises(SubstrateRequestException, match="Inability to pay some fees"):
        substrate.submit_extrinsic(unpaid)
    signed = substrate.create_signed_extrinsic(composed, ALITH)
    forged = "0x" + bytes(signed.data.data).hex().replace(
        ALITH.public_key.hex(), account(1).public_key.hex()
    )
    with pytest.raises(SubstrateRequestException, match="bad signature"):
        substrate.rpc_request("author_submitExtrinsic", [forged])


def test_a_fee_is_quoted_and_then_paid(substrate: SubstrateInterface) -> None:
    composed = substrate.compose_call("System", "remark", {"remark": b"x"})
    extrinsic = substrate.create_signed_extrinsic(composed, ALITH)
    quote = substrate.rpc_request("payment_queryInfo", [str(extrinsic.data)])["result"]
    receipt = substrate.submit_extrinsic(extrinsic, wait_for_inclusion=True)
    assert int(quote["partialFee"]) == receipt.total_fee_amount


def register_subnet(substrate: SubstrateInterface) -> None:
    """Stock scalecodec cannot encode maps, so our encoder makes this one."""
    owner = derive_development_account(0)
    coldkeys = {account(index).public_key: 1 for index in range(4)}
    data = subnet_data(initial_coldkeys=coldkeys, bootnodes={peer_text(9): multiaddr(9)})
    raw = encode_signed(
        RegisterSubnet(10 * TENSOR, data),
        signer=owner.account_id,
        nonce=substrate.get_account_nonce(ALITH.ss58_address),
        genesis_hash=bytes.fromhex(substrate.get_block_hash(0)[2:]),
        sign=sign_with(owner),  # type: ignore[arg-type]
    )
    substrate.rpc_request("author_submitExtrinsic", ["0x" + raw.hex()])


def test_a_subnet_goes_from_registration_to_two_rewarded_epochs(
    substrate: SubstrateInterface,
) -> None:
    register_subnet(substrate)
    subnet = None
    while subnet is None:
        subnet = substrate.query("Network", "SubnetsData", [FIRST_SUBNET]).value
    assert (subnet["name"], subnet["state"]) == ("mesh", "Registered")
    bootnodes = substrate.query("Network", "SubnetBootnodes", [FIRST_SUBNET]).value
    assert bootnodes[0][0] == peer_text(9).decode()

    hotkeys = [account(index) for index in range(10, 14)]
    for index, hotkey in enumerate(hotkeys):
        coldkey = account(index)
        funds = {"dest": hotkey.ss58_address, "value": TENSOR // 100}
        assert submit(substrate, coldkey, ("Balances", "transfer_keep_alive", funds)).is_success
        node = {
            "subnet_id": FIRST_SUBNET,
            "hotkey": hotkey.ss58_address,
            "peer_info": {"peer_id": peer_text(index + 1), "multiaddr": multiaddr(index + 1)},
            "bootnode_peer_info": None,
            "client_peer_info": None,
            "delegate_reward_rate": 0,
            "stake_to_be_added": 100 * TENSOR,
            "unique": None,
            "non_unique": None,
            "delegate_account": None,
            "max_burn_amount": TENSOR,
        }
        registered = submit(substrate, coldkey, ("Network", "register_subnet_node", node))
        assert registered.is_success, registered.error_message
        activation = {"subnet_id": FIRST_SUBNET, "subnet_node_id": index + 1}
        activated = submit(substrate, coldkey, ("Network", "activate_subnet_node", activation))
        assert "SubnetNodeActivated" in names(activated)
    started = submit(substrate, ALITH, ("Network", "activate_subnet", {"subnet_id": FIRST_SUBNET}))
    assert started.is_success, started.error_message

    stored = substrate.query("Network", "SubnetNodesData", [FIRST_SUBNET, 1]).value
    assert stored["peer_info"]["peer_id"] == peer_text(1).decode()
    assert stored["classification"]["node_class"] == "Validator"

    for _ in range(2):
        run_epoch(substrate, hotkeys)


def run_epoch(substrate: SubstrateInterface, hotkeys: list[Keypair]) -> None:
    """Go to the next slot block with an election, propose, attest, and see the rewards."""
    number = substrate.get_block_number(None)
    first = (number - 3) // 20 * 20 + 23
    substrate.rpc_request("dev_newBlock", [{"count": first - number}])
    epoch = (first - 3) // 20
    elected = substrate.query("Network", "SubnetElectedValidator", [FIRST_SUBNET, epoch]).value
    if elected is None:
        run_epoch(substrate, hotkeys)
        return
    scores = [{"subnet_node_id": node_id, "score": TENSOR} for node_id in range(1, 5)]
    proposal = {
        "subnet_id": FIRST_SUBNET,
        "data": scores,
        "prioritize_queue_node_id": None,
        "remove_queue_node_id": None,
        "args": b"\x01\xff",
        "attest_data": None,
    }
    proposer = hotkeys[elected - 1]
    before = free(substrate, proposer.ss58_address)
    proposed = submit(substrate, proposer, ("Network", "propose_attestation", proposal))
    assert proposed.is_success, proposed.error_message
    assert free(substrate, proposer.ss58_address) == before
    repeated = submit(substrate, proposer, ("Network", "propose_attestation", proposal))
    assert repeated.error_message["name"] == "SubnetRewardsAlreadySubmitted"
    assert free(substrate, proposer.ss58_address) < before
    for index, hotkey in enumerate(hotkeys, start=1):
        if index != elected:
            call = ("Network", "attest", {"subnet_id": FIRST_SUBNET, "attest_data": b"seen"})
            assert submit(substrate, hotkey, call).is_success
    stored = substrate.query("Network", "SubnetConsensusSubmission", [FIRST_SUBNET, epoch]).value
    assert sorted(node_id for node_id, _ in stored["attests"]) == [1, 2, 3, 4]
    assert stored["validator_id"] == elected
    stake = substrate.query(
        "Network", "AccountSubnetStake", [proposer.ss58_address, FIRST_SUBNET]
    ).value
    number = substrate.get_block_number(None)
    substrate.rpc_request("dev_newBlock", [{"count": first + 20 - number}])
    block_hash = substrate.get_block_hash(first + 20)
    events = [event.value for event in substrate.get_events(block_hash)]
    rewards = next(event for event in events if event["event_id"] == "SubnetRewards")
    assert rewards["phase"] == "Initialization"
    after = substrate.query(
        "Network", "AccountSubnetStake", [proposer.ss58_address, FIRST_SUBNET]
    ).value
    assert 0.99 * TENSOR < after - stake <= 1.5 * TENSOR
