"""The refusals of extrinsics: one name for each, a sentence that explains it, and a fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from subnet.chain.rpc_errors import PoolRefused
from subnet.errors import ExtrinsicFailed

if TYPE_CHECKING:
    from subnet.chain.chain_session import ChainSession

# JSON-RPC codes of the transaction pool (sc-rpc-api, author::error).
POOL_UNKNOWN = 1011
_POOL_CODES = {
    1012: "TemporarilyBanned",
    1013: "AlreadyImported",
    1014: "TooLowPriority",
    1015: "CycleDetected",
    1016: "ImmediatelyDropped",
}

# What nodes write for a refusal, in small letters without spaces.
_POOL_WORDS = {
    "stale": "Stale",
    "outdated": "Stale",
    "future": "Future",
    "payment": "Payment",
    "paysomefees": "Payment",
    "balancetoolow": "Payment",
    "badproof": "BadProof",
    "badsignature": "BadProof",
    "ancientbirthblock": "AncientBirthBlock",
    "exhaust": "ExhaustsResources",
    "usurped": "Usurped",
    "finalitytimeout": "FinalityTimeout",
    "dropped": "Dropped",
    "invalid": "Invalid",
}


def read_pool_reason(refusal: PoolRefused) -> str:
    """Return the one name of a pool's refusal, whatever the node's wording."""
    if refusal.code in _POOL_CODES:
        return _POOL_CODES[refusal.code]
    text = "".join(f"{refusal.message} {refusal.data}".lower().split())
    otherwise = "Undecodable" if refusal.code == POOL_UNKNOWN else "Refused"
    return next((reason for words, reason in _POOL_WORDS.items() if words in text), otherwise)


def read_dispatch_error(error: Any, session: ChainSession) -> str:
    """Return the name of a DispatchError: the pallet's own, or the variant's."""
    if isinstance(error, str):
        return error
    if not isinstance(error, Mapping) or not error:
        return "Unknown"
    variant, value = next(iter(error.items()))
    if variant == "Module":
        raw = value["error"]
        index = int(raw[2:4], 16) if isinstance(raw, str) else int(raw)
        return session.runtime.find_error_name(int(value["index"]), index)
    if isinstance(value, str):
        return value
    return str(variant)


def make_failure(reason: str, *, call: str, detail: str = "") -> ExtrinsicFailed:
    """Return the error to raise for a refused or failed call."""
    sentence = _SENTENCES[reason][0] if reason in _SENTENCES else detail
    return ExtrinsicFailed(reason, f"{call} was refused: {sentence}" if sentence else call)


def get_fix(reason: str) -> str:
    """Return the one thing to do about a refusal."""
    if reason in _SENTENCES:
        return _SENTENCES[reason][1]
    return "run `mesh chain show` to compare the chain's state with what the call expects"


_SHOW = "look at `mesh chain show`"
_BALANCE = "look at `mesh chain balance`"
_NEXT_EPOCH = "wait for the next epoch"
_TOO_POOR = ("the balance does not cover the amount and the fee", _BALANCE)
_CLOSES_ACCOUNT = (
    "the transfer would close the sender's account",
    "leave at least the existential deposit behind",
)
_OUT_OF_BOUNDS = (
    "the value is outside the bounds that the chain sets",
    "give a value nearer to the present one",
)
_PEER_ID_TAKEN = ("another node has this peer id", "make new ones with `mesh keygen`")
_SENTENCES: dict[str, tuple[str, str]] = {
    # The transaction pool.
    "Stale": (
        "its nonce has been used already",
        "check whether another process signs with the same key, then try again",
    ),
    "Future": (
        "its nonce is ahead of the account's",
        "wait for the account's earlier transactions, then try again",
    ),
    "Payment": (
        "the account cannot pay the fee",
        "send it TENSOR with `mesh chain transfer`; --dry-run says what the call costs",
    ),
    "BadProof": (
        "the signature does not fit the chain",
        "check that the endpoint serves the chain that you expect",
    ),
    "Expired": ("no block took it in its lifetime", "try again"),
    "AncientBirthBlock": ("its lifetime is over", "send it again"),
    "ExhaustsResources": ("the block is full", "try again in the next block"),
    "TemporarilyBanned": ("the pool bans it for a while", "wait some minutes and look again"),
    "AlreadyImported": ("the pool holds it already", "wait for the next block"),
    "TooLowPriority": (
        "another transaction with the same nonce waits in the pool",
        "wait for the next block, then try again",
    ),
    "ImmediatelyDropped": ("the pool is full", "try again later, or with a tip"),
    "Dropped": ("the pool let it fall", "try again"),
    "Usurped": (
        "another transaction with the same nonce took its place",
        "check whether another process signs with the same key",
    ),
    "Undecodable": ("the chain cannot decode it", "check the lengths of the texts in it"),
    # Any pallet.
    "BadOrigin": ("this account may not make this call", "sign with the right key"),
    "FundsUnavailable": _TOO_POOR,
    "InsufficientBalance": _TOO_POOR,
    "Underflow": _TOO_POOR,
    "ExistentialDeposit": (
        "the amount would leave an account below the least that may exist",
        "send more, or leave more behind",
    ),
    "NotExpendable": _CLOSES_ACCOUNT,
    "Expendability": _CLOSES_ACCOUNT,
    # Proposing and attesting.
    "SubnetEpochDataIsNone": (
        "the subnet has no epoch yet",
        "wait until the subnet is active and its slot has come",
    ),
    "NoElectedValidator": ("no node was elected in this epoch", _NEXT_EPOCH),
    "InvalidValidator": (
        "the signer is not the hotkey of the elected node",
        "sign with the hotkey of the node that `mesh chain show` names",
    ),
    "SubnetRewardsAlreadySubmitted": ("this epoch has a proposal already", _NEXT_EPOCH),
    "ScoreOverflow": ("the scores' sum is too large", "propose smaller scores"),
    "InvalidHotkeySubnetNodeId": (
        "the signer is not the hotkey of a node of this subnet",
        "sign with the node's hotkey, not with its coldkey",
    ),
    "InvalidSubnetNodeId": (
        "the subnet has no active node with this id, or it joined after the proposal",
        "`mesh chain nodes` lists the ids; a queued node waits for its activation",
    ),
    "InvalidSubnetNodeClassification": (
        "the node is not of class Validator yet",
        "wait for its graduation; " + _SHOW,
    ),
    "InvalidEmergencySubnetNodeId": (
        "the node is not in the subnet's emergency validator set",
        "wait until the owner's emergency set ends",
    ),
    "InvalidSubnetConsensusSubmission": ("nothing is proposed in this epoch", _NEXT_EPOCH),
    "AlreadyAttested": ("the node has attested this epoch already", _NEXT_EPOCH),
    # The subnet.
    "NotSubnetOwner": ("the signer is not the subnet's owner", "sign with the owner's key"),
    "SubnetActivatedAlready": ("the subnet is active already", _SHOW),
    "MinSubnetRegistrationEpochsNotMet": ("the subnet is too young", "wait some epochs"),
    "SubnetActivationConditionsNotMetYet": (
        "the subnet lacks active nodes, delegate stake or reputation",
        "register and activate as many nodes as the chain's MinSubnetNodes, or more; " + _SHOW,
    ),
    "InvalidSubnetId": ("there is no subnet with this id", "check --subnet"),
    "SubnetMustBeRegistering": ("the subnet is past its registration", _SHOW),
    "SubnetMustBeRegisteringOrActivated": (
        "the subnet is in its enactment period and takes no nodes",
        "wait until its owner activates it",
    ),
    "SubnetMustBeActive": ("the subnet is not active", _SHOW),
    "SubnetMustBePaused": ("the subnet is not paused", _SHOW),
    "SubnetIsPaused": ("the subnet is paused", "wait until its owner unpauses it"),
    "SubnetNameExist": ("another subnet has this name", "choose another --name"),
    "SubnetRepoExist": ("another subnet has this repository", "choose another --repo"),
    "MaxSubnets": ("the chain holds as many subnets as it takes", "wait for a free place"),
    "NoAvailableSlots": ("every slot of the epoch is taken", "wait until a subnet is removed"),
    "BootnodesEmpty": ("a subnet needs a bootnode", "give --bootnode PEER_ID=MULTIADDR"),
    "TooManyBootnodes": ("there are too many bootnodes", "give fewer"),
    "InvalidBootnodePeerId": ("a bootnode's peer id is not peer id text", "give it as 12D3KooW..."),
    "InvalidMultiaddr": ("a multiaddr is not one that the chain takes", "use /ip4/../tcp/.."),
    "MultiaddrInvalidVarint": ("a multiaddr is malformed", "use /ip4/../tcp/../p2p/.."),
    "MultiaddrInvalidProtocol": (
        "a multiaddr uses a protocol that the chain does not take",
        "use ip4, ip6, dns4, tcp, udp, ws and end with /p2p/PEER_ID",
    ),
    "MultiaddrInvalidAddress": ("a multiaddr is malformed", "use /ip4/../tcp/../p2p/.."),
    "MultiaddrTruncated": ("a multiaddr is cut off", "use /ip4/../tcp/../p2p/.."),
    "MultiaddrExist": ("another node of the subnet has this address", "use the node's own"),
    "InvalidSubnetMinStake": ("the minimum stake is outside the bounds", "use 100 to 250 TENSOR"),
    "InvalidSubnetMaxStake": ("the maximum stake is too high", "use at most 1000 TENSOR"),
    "InvalidSubnetStakeParameters": ("the minimum stake exceeds the maximum", "swap them"),
    "InvalidMinDelegateStakePercentage": (
        "the delegate percentage is outside the bounds",
        "use 5 to 95 percent",
    ),
    "InvalidSubnetRegistrationInitialColdkeys": (
        "a subnet starts with at least three coldkeys, each for one node or more",
        "give --initial-coldkey ADDRESS=COUNT three times or more",
    ),
    "CostGreaterThanMaxCost": ("registration costs more than --max-cost", "raise --max-cost"),
    "NotEnoughBalanceToRegisterSubnet": ("the balance does not cover the registration", _BALANCE),
    # Nodes.
    "ColdkeyMatchesHotkey": ("hotkey and coldkey are the same", "use another key as hotkey"),
    "HotkeyHasOwner": (
        "the hotkey serves a node, or holds the stake of one that left",
        "bring that home with `mesh chain leave`, or make a new hotkey; one serves a single node",
    ),
    "HotkeyAlreadyRegisteredToColdkey": (
        "the hotkey is registered by this coldkey already",
        "make a new hotkey",
    ),
    "ColdkeyRegistrationWhitelist": (
        "this coldkey is not on the list of the registering subnet",
        "ask the subnet's owner, or wait until the subnet is active",
    ),
    "MaxRegisteredNodes": (
        "this coldkey's places, or the subnet's queue, are full",
        "wait until the queue moves",
    ),
    "InvalidPeerId": ("a peer id is not peer id text", "give it as 12D3KooW..."),
    "PeerIdExist": (
        "a node of this subnet has one of these peer ids",
        "the three peer ids of a node differ and are its own: run `mesh keygen`",
    ),
    "SubnetNodeUniqueParamTaken": ("another node has the same unique value", "use another"),
    "MustUnstakeToRegister": (
        "the hotkey has stake left from an earlier node",
        "unstake it, or use a new hotkey",
    ),
    "InvalidDelegateRewardRate": ("the delegate reward rate exceeds 100 percent", "lower it"),
    "MaxBurnAmountExceeded": ("registration burns more than allowed", "raise --max-burn"),
    "BalanceBurnError": ("the balance does not cover the burn", _BALANCE),
    "NotKeyOwner": (
        "the signer does not own this node or hotkey",
        "sign with its coldkey; check the node's id, too: " + _SHOW,
    ),
    "NotUidOwner": ("the node id belongs to another key", "check --node"),
    "NotStartEpoch": (
        "the node's activation window is not open",
        "activate from its start epoch on and inside the grace period; " + _SHOW,
    ),
    "ActivationIsAutomatic": (
        "this chain activates nodes from its queue by itself",
        "wait: `mesh chain show` counts the epochs",
    ),
    "ElectedValidatorCannotRemove": ("the node is elected in this epoch", _NEXT_EPOCH),
    "ElectedValidatorCannotUnstake": ("the node is elected in this epoch", _NEXT_EPOCH),
    # Stake.
    "MinStakeNotReached": ("the stake is below the subnet's minimum", "stake more"),
    "MaxStakeReached": ("the stake exceeds the subnet's maximum", "stake less"),
    "NotEnoughBalanceToStake": (
        "the balance does not cover the stake",
        _BALANCE + "; `mesh chain leave` brings back what a node that left had staked",
    ),
    "NotEnoughStakeToWithdraw": ("the hotkey has less stake than that", "withdraw less"),
    "AmountZero": ("the amount is zero", "give an amount"),
    "InvalidAmount": ("the amount is zero", "give an amount"),
    "MinActiveNodeStakeEpochs": ("the node is too young to unstake", "wait some epochs"),
    "MaxUnlockingsReached": (
        "there are too many unbondings",
        "claim those whose time has come first",
    ),
    "NoStakeUnbondingsOrCooldownNotMet": (
        "no unbonding can be claimed yet",
        "wait for the block that the list of unbondings names",
    ),
    "TxRateLimitExceeded": ("the account calls too often", "wait some blocks"),
    # Identity.
    "IdentityFieldEmpty": ("every field of an identity must be filled", "fill the empty ones"),
    "IdentityTaken": ("another coldkey uses this name", "choose another"),
    "Paused": ("the whole chain is paused", "wait until it is unpaused"),
    # Settings of a subnet.
    "InvalidChurnLimit": _OUT_OF_BOUNDS,
    "InvalidChurnLimitMultiplier": _OUT_OF_BOUNDS,
    "InvalidRegistrationQueueEpochs": _OUT_OF_BOUNDS,
    "InvalidIdleClassificationEpochs": _OUT_OF_BOUNDS,
    "InvalidIncludedClassificationEpochs": _OUT_OF_BOUNDS,
    "InvalidSubnetNodeConsecutiveIncludedEpochs": _OUT_OF_BOUNDS,
    "InvalidTargetNodeRegistrationsPerEpoch": _OUT_OF_BOUNDS,
    "InvalidMaxRegisteredNodes": _OUT_OF_BOUNDS,
    "InvalidDelegateStakePercentage": _OUT_OF_BOUNDS,
    "InvalidAbsentDecreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidIncludedIncreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidNonConsensusAttestorDecreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidNonValidatorAbsentDecreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidValidatorNonConsensusSubnetNodeReputationFactor": _OUT_OF_BOUNDS,
    "InvalidBelowMinWeightDecreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidNonAttestorDecreaseReputationFactor": _OUT_OF_BOUNDS,
    "InvalidMinNodeBurnRate": _OUT_OF_BOUNDS,
    "InvalidMaxNodeBurnRate": _OUT_OF_BOUNDS,
    "InvalidPercent": _OUT_OF_BOUNDS,
    "InvalidValues": ("the lowest value is above the highest", "exchange the two"),
    "MinSubnetNodeReputation": _OUT_OF_BOUNDS,
    "DelegateStakePercentageUpdateTooSoon": (
        "the share of delegators was changed a short time ago",
        "wait before it is changed again",
    ),
    "DelegateStakePercentageAbsDiffTooLarge": (
        "the share of delegators may change only a little at once",
        "take a value nearer to the present one",
    ),
    "SubnetPauseCooldownActive": ("the subnet was paused a short time ago", "wait some epochs"),
    "EmergencyValidatorsSet": (
        "the subnet has a set of emergency validators already",
        "wait until it has done its part",
    ),
    "NotPendingSubnetOwner": (
        "the signer is not the account to which the subnet was offered",
        "sign with that account",
    ),
    "NoPendingSubnetOwner": ("the subnet is offered to no account", "let its owner offer it first"),
    "InBootnodeAccessList": ("the account may set bootnodes already", "nothing is left to do"),
    "NotInAccessList": ("the account may not set bootnodes", "let the owner add it first"),
    "InvalidAccess": (
        "the signer may not set the subnet's bootnodes",
        "sign with the owner's key, or let the owner add this account",
    ),
    "MaxSubnetBootnodeAccess": (
        "as many accounts as possible may set bootnodes",
        "take one off the list first",
    ),
    # Nodes.
    "BootnodePeerIdExist": _PEER_ID_TAKEN,
    "ClientPeerIdExist": _PEER_ID_TAKEN,
    "PeerIdsMustBeUnique": (
        "two of the node's three peer ids are equal",
        "make three with `mesh keygen`",
    ),
    "InvalidClientPeerId": ("the client's peer id is not one", "copy it from `mesh keygen`"),
    "UniqueParameterTaken": ("another node has this unique text", "choose another"),
    "MaxSubnetNodes": ("the subnet is full", "wait until a node leaves, or join another subnet"),
    "OldHotkeyNotRegistered": ("the old hotkey has no owner", "check --old"),
    "ColdkeyBlacklisted": (
        "the chain lets this coldkey register nothing",
        "register with another coldkey",
    ),
    "ElectionSlotInsertFail": (
        "the node is among those that can be elected already",
        "look at `mesh chain node`",
    ),
    "NoDelegateRewardRateChange": ("the rate is what it was", "give another rate"),
    "InvalidDelegateAccountRate": _OUT_OF_BOUNDS,
    "InvalidDelegateAccountParameters": (
        "neither a delegate account nor its rate is given",
        "give one of them, or both",
    ),
    "DelegateAccountIdIsNone": ("a rate is given without an account", "name the account, too"),
    "DelegateAccountRateIsNone": ("an account is given without its rate", "give the rate, too"),
    "DelegateAccountCannotBeHotkey": (
        "the delegate account is the node's hotkey",
        "name another account",
    ),
    "DelegateAccountCannotBeColdkey": (
        "the delegate account is the node's coldkey",
        "name another account",
    ),
    "NotDelegateAccountOwner": (
        "the signer is not the node's delegate account",
        "sign with that account",
    ),
    "NoDelegateAccountSet": ("the node has no delegate account", "let its coldkey set one first"),
    "SurpassesMaxRewardRateDecrease": (
        "the rate may fall only a little at once",
        "take a value nearer to the present one",
    ),
    "MaxRewardRateUpdates": ("the rate was changed a short time ago", "wait some epochs"),
    # Stake.
    "NotEnoughBalance": _TOO_POOR,
    "BalanceWithdrawalError": _TOO_POOR,
    "CouldNotConvertToBalance": ("the amount is too large", "give a smaller amount"),
    "CouldNotConvertToShares": ("the amount is too small for a share", "give a larger amount"),
    "SharesZero": ("the amount is worth no share", "give a larger amount"),
    "MinDelegateStake": ("the amount is below the least that is delegated", "give a larger one"),
    "MinDelegateStakeDepositNotReached": (
        "the amount is below the least that is delegated",
        "give a larger one",
    ),
    "MinNodeDelegateStakeDepositNotReached": (
        "the amount is below the least that is delegated",
        "give a larger one",
    ),
    "TransferToSelfNotAllowed": ("sender and recipient are equal", "name another account"),
    "SwapCallNotFound": (
        "no such swap of delegated stake is queued",
        "look at `mesh chain delegation`",
    ),
}

RAW_ERRORS = frozenset(
    {
        # Calls of the network's governance.
        "InvalidAttestorRewardExponent",
        "InvalidDelegateStakeCooldownEpochs",
        "InvalidDelegateStakeSubnetRemovalInterval",
        "InvalidMaxBootnodes",
        "InvalidMaxEmergencySubnetNodes",
        "InvalidMaxSubnetBootnodeAccess",
        "InvalidMaxSubnetNodes",
        "InvalidMaxSubnetPauseEpochs",
        "InvalidMaxSubnetRemovalInterval",
        "InvalidMaxSubnets",
        "InvalidMaxUnbondings",
        "InvalidMinDelegateStakeDeposit",
        "InvalidMinEmergencySubnetNodes",
        "InvalidMinSubnetNodes",
        "InvalidMinSubnetRegistrationEpochs",
        "InvalidNodeDelegateStakeCooldownEpochs",
        "InvalidOverwatchEpochLengthMultiplier",
        "InvalidPerbillPercent",
        "InvalidStakeCooldownEpochs",
        "InvalidSubnetRegistrationEpochs",
        "InvalidSubnetRemoval",
        "InvalidSuperMajorityAttestationRatio",
        "InvalidValidatorRewardK",
        # Overwatch nodes, which this client does not run.
        "AlreadyCommitted",
        "ColdkeyNotOverwatchQualified",
        "ColdkeyOverwatchQualified",
        "CommitsEmpty",
        "InvalidOverwatchNodeId",
        "InvalidWeight",
        "MaxOverwatchNodes",
        "NoCommitFound",
        "NotCommitPeriod",
        "NotRevealPeriod",
        "OverwatchEpochIsZero",
        "RevealMismatch",
    }
)
"""Errors of the pallet that no command of ours can end in: they keep the pallet's own name."""
