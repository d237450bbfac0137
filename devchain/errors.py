"""The development chain's errors, and the pallet's error numbers on the wire.

DevchainError
├── DevchainUnusable(message, hint)   the chain cannot be served as it was asked for
├── LedgerError
│   ├── DispatchError(pallet, name)   a call failed; everything it did is rolled back
│   ├── InvalidTransaction(reason)    the pool or the block refuses the extrinsic itself
│   ├── ForeignBlock                  a stored block does not replay: devchain/chain.py
│   └── PoolRefusal(code, message)    the pool does not take it: devchain/transaction_pool.py
└── RpcError(code, message)           a request that cannot be served: devchain/rpc_errors.py
"""

from __future__ import annotations

from enum import Enum
from typing import NoReturn

# Indices of the pallet's error enum: a name's place is its number on the wire.
_ERROR_NAMES = """
InvalidChurnLimit InvalidChurnLimitMultiplier InvalidRegistrationQueueEpochs
InvalidIdleClassificationEpochs InvalidIncludedClassificationEpochs
InvalidSubnetNodeConsecutiveIncludedEpochs InvalidOverwatchEpochLengthMultiplier
SubnetMustBeRegisteringOrActivated SubnetMustBeRegistering MaxSubnets InvalidSubnetNodeId
InvalidSubnetNodeClassification InvalidEmergencySubnetNodeId NotSubnetOwner
NotPendingSubnetOwner NoPendingSubnetOwner SubnetPauseCooldownActive
InvalidTargetNodeRegistrationsPerEpoch PeerIdExist MaxSubnetNodes BootnodePeerIdExist
ClientPeerIdExist InvalidClientPeerId MultiaddrExist InvalidHotkeySubnetNodeId SubnetNameExist
SubnetRepoExist InvalidSubnetId SubnetMustBeActive SubnetMustBePaused
InvalidMinEmergencySubnetNodes InvalidMaxEmergencySubnetNodes SubnetIsPaused TxRateLimitExceeded
InvalidPeerId InvalidBootnodePeerId InvalidMultiaddr ColdkeyRegistrationWhitelist
MaxRegisteredNodes NotEnoughBalanceToRegisterSubnet UniqueParameterTaken
SubnetActivationConditionsNotMetYet CostGreaterThanMaxCost MinSubnetRegistrationEpochsNotMet
InvalidMaxRegisteredNodes InvalidSubnetRegistrationInitialColdkeys BootnodesEmpty
InvalidSubnetMinStake InvalidSubnetMaxStake InvalidSubnetStakeParameters
InvalidMinDelegateStakePercentage InvalidDelegateStakePercentage
DelegateStakePercentageUpdateTooSoon DelegateStakePercentageAbsDiffTooLarge
MustUnstakeToRegister InvalidMaxSubnets InvalidMinDelegateStakeDeposit InvalidMaxBootnodes
InvalidMaxSubnetBootnodeAccess InvalidMaxSubnetPauseEpochs NoAvailableSlots
InvalidMinSubnetNodes InvalidMaxSubnetNodes InvalidPercent EmergencyValidatorsSet
MinSubnetNodeReputation InvalidAbsentDecreaseReputationFactor
InvalidIncludedIncreaseReputationFactor InvalidNonConsensusAttestorDecreaseReputationFactor
InvalidNonValidatorAbsentDecreaseReputationFactor
InvalidValidatorNonConsensusSubnetNodeReputationFactor
InvalidBelowMinWeightDecreaseReputationFactor InvalidNonAttestorDecreaseReputationFactor
InvalidValidatorRewardK InvalidAttestorRewardExponent InvalidSuperMajorityAttestationRatio
InvalidValues InvalidPerbillPercent InvalidMinNodeBurnRate InvalidMaxNodeBurnRate
InvalidDelegateStakeSubnetRemovalInterval InvalidMaxSubnetRemovalInterval
InvalidMinSubnetRegistrationEpochs InvalidSubnetRegistrationEpochs InvalidStakeCooldownEpochs
InvalidMaxUnbondings InvalidDelegateStakeCooldownEpochs InvalidNodeDelegateStakeCooldownEpochs
CouldNotConvertToBalance InvalidAmount NotEnoughBalanceToStake NotEnoughBalance
BalanceWithdrawalError BalanceBurnError NotEnoughStakeToWithdraw TransferToSelfNotAllowed
MaxStakeReached MinDelegateStakeDepositNotReached MinNodeDelegateStakeDepositNotReached
MinStakeNotReached CouldNotConvertToShares MaxUnlockingsReached
NoStakeUnbondingsOrCooldownNotMet MinDelegateStake ElectedValidatorCannotUnstake
ElectedValidatorCannotRemove MinActiveNodeStakeEpochs SharesZero AmountZero
InvalidSubnetConsensusSubmission SubnetActivatedAlready InvalidSubnetRemoval
SubnetRewardsAlreadySubmitted SubnetEpochDataIsNone InvalidValidator NoElectedValidator
AlreadyAttested ScoreOverflow ElectionSlotInsertFail NotKeyOwner SubnetNodeUniqueParamTaken
HotkeyAlreadyRegisteredToColdkey MaxBurnAmountExceeded OldHotkeyNotRegistered IdentityTaken
IdentityFieldEmpty NoDelegateRewardRateChange InvalidDelegateRewardRate
InvalidDelegateAccountRate InvalidDelegateAccountParameters DelegateAccountIdIsNone
DelegateAccountRateIsNone DelegateAccountCannotBeHotkey DelegateAccountCannotBeColdkey
NotDelegateAccountOwner NoDelegateAccountSet SurpassesMaxRewardRateDecrease MaxRewardRateUpdates
Paused HotkeyHasOwner ColdkeyMatchesHotkey PeerIdsMustBeUnique NoCommitFound RevealMismatch
CommitsEmpty AlreadyCommitted InvalidWeight MaxOverwatchNodes OverwatchEpochIsZero
InBootnodeAccessList NotInAccessList TooManyBootnodes InvalidAccess NotCommitPeriod
NotRevealPeriod ColdkeyNotOverwatchQualified ColdkeyOverwatchQualified InvalidOverwatchNodeId
MaxSubnetBootnodeAccess SwapCallNotFound ColdkeyBlacklisted MultiaddrInvalidVarint
MultiaddrInvalidProtocol MultiaddrInvalidAddress MultiaddrTruncated
"""
NETWORK_ERRORS = tuple(_ERROR_NAMES.split())
# The original activation flow lives at numbers that the pallet does not use.
EXTRA_NETWORK_ERRORS = {240: "NotStartEpoch", 241: "ActivationIsAutomatic"}
NETWORK_ERROR_INDEX = {name: index for index, name in enumerate(NETWORK_ERRORS)} | {
    name: index for index, name in EXTRA_NETWORK_ERRORS.items()
}


class DevchainError(Exception):
    """Base of every error of the development chain."""


class DevchainUnusable(DevchainError):
    """The chain cannot be served as it was asked for. ``hint`` is the one fix."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class LedgerError(DevchainError):
    """Base of the ledger's refusals."""


class DispatchError(LedgerError):
    """A call failed. ``pallet`` is ``Token`` for the runtime's own balance errors."""

    def __init__(self, pallet: str, name: str) -> None:
        super().__init__(f"{pallet}.{name}")
        self.pallet = pallet
        self.name = name


class InvalidReason(Enum):
    """Why an extrinsic itself is refused, with the node's own words."""

    PAYMENT = "Inability to pay some fees (e.g. account balance too low)"
    STALE = "Transaction is outdated"
    FUTURE = "Transaction will be valid in the future"
    BAD_PROOF = "Transaction has a bad signature"
    ANCIENT_BIRTH_BLOCK = "Transaction has an ancient birth block"


class InvalidTransaction(LedgerError):
    """The extrinsic can be in no block now."""

    def __init__(self, reason: InvalidReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def fail(name: str) -> NoReturn:
    """Raise the Network pallet's error ``name``."""
    if name not in NETWORK_ERROR_INDEX:
        raise ValueError(f"{name} is not an error of the pallet")
    raise DispatchError("Network", name)


def ensure(condition: bool, name: str) -> None:
    """Raise the Network pallet's error ``name`` unless ``condition`` holds."""
    if not condition:
        fail(name)
