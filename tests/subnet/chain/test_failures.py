"""Every refusal has one name, whatever the node's wording, a sentence and a fix."""

from __future__ import annotations

import re

import pytest

from devchain.errors import EXTRA_NETWORK_ERRORS, NETWORK_ERRORS
from subnet.chain.failures import get_fix, make_failure, read_pool_reason
from subnet.chain.rpc_errors import PoolRefused

# The errors that calls of owners, operators and nodes end in (chain interface, section 1.4).
EXPLAINED = [
    "SubnetEpochDataIsNone",
    "NoElectedValidator",
    "InvalidValidator",
    "SubnetRewardsAlreadySubmitted",
    "ScoreOverflow",
    "InvalidHotkeySubnetNodeId",
    "InvalidSubnetNodeId",
    "InvalidSubnetNodeClassification",
    "InvalidEmergencySubnetNodeId",
    "InvalidSubnetConsensusSubmission",
    "AlreadyAttested",
    "NotSubnetOwner",
    "SubnetActivatedAlready",
    "MinSubnetRegistrationEpochsNotMet",
    "SubnetActivationConditionsNotMetYet",
    "InvalidSubnetId",
    "MinStakeNotReached",
    "MaxStakeReached",
    "NotEnoughBalanceToStake",
    "NotEnoughStakeToWithdraw",
    "AmountZero",
    "NotKeyOwner",
    "ElectedValidatorCannotUnstake",
    "MinActiveNodeStakeEpochs",
    "MaxUnlockingsReached",
    "NoStakeUnbondingsOrCooldownNotMet",
    "ElectedValidatorCannotRemove",
    "PeerIdExist",
    "MultiaddrExist",
    "HotkeyHasOwner",
    "ColdkeyMatchesHotkey",
    "IdentityFieldEmpty",
    "IdentityTaken",
]


@pytest.mark.parametrize(
    ("code", "message", "data", "reason"),
    [
        (1010, "Invalid Transaction", "Transaction is outdated", "Stale"),
        (1010, "Invalid Transaction", "Transaction will be valid in the future", "Future"),
        (
            1010,
            "Invalid Transaction",
            "Inability to pay some fees (e.g. account balance too low)",
            "Payment",
        ),
        (1010, "Invalid Transaction", "Transaction has a bad signature", "BadProof"),
        (
            1010,
            "Invalid Transaction",
            "Transaction has an ancient birth block",
            "AncientBirthBlock",
        ),
        (1010, '{"invalid":{"stale":null}}', "", "Stale"),
        (1010, '{"invalid":{"payment":null}}', "", "Payment"),
        (1010, '{"invalid":{"badProof":null}}', "", "BadProof"),
        (1012, "Transaction is temporarily banned", "", "TemporarilyBanned"),
        (1013, "Transaction Already Imported", "", "AlreadyImported"),
        (1014, "Priority is too low: (1 vs 1)", "", "TooLowPriority"),
        (1016, "Immediately Dropped", "", "ImmediatelyDropped"),
        (1011, "Error: wasm `unreachable` instruction executed", "", "Undecodable"),
        (0, "usurped", "0xab", "Usurped"),
        (0, "dropped", "", "Dropped"),
        (-32000, "something new", "", "Refused"),
    ],
)
def test_pool_refusals_of_every_node_get_one_name(
    code: int, message: str, data: str, reason: str
) -> None:
    assert read_pool_reason(PoolRefused(code, message, data)) == reason


@pytest.mark.parametrize("reason", [*EXPLAINED, *EXTRA_NETWORK_ERRORS.values(), "Stale", "Payment"])
def test_common_errors_have_a_sentence_and_a_fix(reason: str) -> None:
    error = make_failure(reason, call="Network.attest")
    assert error.reason == reason
    assert re.search(r"Network\.attest was refused: [a-z]", error.detail)
    assert get_fix(reason) != get_fix("ErrorOfAnotherRuntime")


def test_the_explained_errors_are_errors_of_the_pallet() -> None:
    assert set(EXPLAINED) <= set(NETWORK_ERRORS)


def test_an_unknown_error_keeps_its_name_and_the_nodes_words() -> None:
    error = make_failure("ErrorOfAnotherRuntime", call="Network.attest", detail="because")
    assert "ErrorOfAnotherRuntime" in str(error)
    assert "because" in str(error)
