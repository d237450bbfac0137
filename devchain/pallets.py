"""The runtime as declarations: its pallets with calls, events, errors and constants.

Metadata, extrinsic decoding and storage keys are all derived from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from devchain import calls, events, storage
from devchain.chain_types import AccountId, ActivationMode
from devchain.errors import NETWORK_ERROR_INDEX, DispatchError
from devchain.events import (
    Event,
    Failure,
    ModuleError,
    ModuleFailure,
    TokenError,
    TokenFailure,
)
from devchain.ledger import HANDLERS
from devchain.runtime import (
    DESIGNATED_EPOCH_SLOTS,
    EPOCHS_PER_YEAR,
    PALLET_ID,
    TREASURY_ACCOUNT,
    LedgerConfig,
)
from devchain.scale import (
    U16,
    U32,
    U64,
    U128,
    ByteArray,
    Hash,
    Newtype,
    PalletVariants,
    Variant,
    Variants,
    to_camel_case,
    type_of,
)
from devchain.state import Item

SPEC_NAME = "hypertensor-node"
SPEC_VERSION = 1
TRANSACTION_VERSION = 1
BLOCK_HASH_COUNT = 256
SS58_PREFIX = 42
RUNTIME_PATH = "hypertensor_runtime"


@dataclass(frozen=True)
class Pallet:
    """One pallet. ``crate`` begins the paths of its types."""

    index: int
    name: str
    crate: str
    calls: Variants | None = None
    events: Variants | None = None
    errors: Mapping[str, int] = field(default_factory=dict)


def _variants(crate: str, kind: str, pallet: str, classes: Any) -> Variants | None:
    chosen = tuple(
        sorted((cls for cls in classes if cls.pallet == pallet), key=lambda c: c.variant_index)
    )
    return Variants((crate, "pallet", kind), chosen) if chosen else None


_CALLS = (*HANDLERS, calls.SetTimestamp)
_EVENTS = tuple(
    cls
    for cls in vars(events).values()
    if isinstance(cls, type) and issubclass(cls, Event) and hasattr(cls, "variant_index")
)


def _pallet(index: int, name: str, crate: str, errors: Mapping[str, int] | None = None) -> Pallet:
    return Pallet(
        index,
        name,
        crate,
        _variants(crate, "Call", name, _CALLS),
        _variants(crate, "Event", name, _EVENTS),
        errors or {},
    )


PALLETS = (
    _pallet(0, "System", "frame_system"),
    _pallet(1, "Timestamp", "pallet_timestamp"),
    _pallet(4, "Balances", "pallet_balances"),
    _pallet(5, "TransactionPayment", "pallet_transaction_payment"),
    _pallet(23, "Network", "pallet_network", NETWORK_ERROR_INDEX),
)
NETWORK_INDEX = 23

CALL_TYPE = PalletVariants(
    (RUNTIME_PATH, "RuntimeCall"),
    tuple((pallet.index, pallet.name, pallet.calls) for pallet in PALLETS if pallet.calls),
)
EVENT_TYPE = PalletVariants(
    (RUNTIME_PATH, "RuntimeEvent"),
    tuple((pallet.index, pallet.name, pallet.events) for pallet in PALLETS if pallet.events),
)


class ApplyExtrinsic(Variant, index=0, named=False):
    extrinsic: U32


class Finalization(Variant, index=1):
    pass


class Initialization(Variant, index=2):
    pass


Phase = ApplyExtrinsic | Finalization | Initialization
PhaseType = Annotated[
    Phase, Variants(("frame_system", "Phase"), (ApplyExtrinsic, Finalization, Initialization))
]


@dataclass(frozen=True)
class EventRecord:
    """One event and the step of the block that caused it."""

    phase: PhaseType
    event: Annotated[Event, EVENT_TYPE]
    topics: tuple[Hash, ...] = ()


SYSTEM_EVENTS: Item[tuple[EventRecord, ...]] = Item(
    "System", "Events", type_of(tuple[EventRecord, ...]), default=()
)
STORAGE_ITEMS: tuple[Item[Any], ...] = (*storage.ALL_ITEMS, SYSTEM_EVENTS)


@dataclass(frozen=True)
class Constant:
    pallet: str
    name: str
    annotation: Any
    value: Any


def list_constants(config: LedgerConfig) -> tuple[Constant, ...]:
    """Return the runtime's constants for one chain."""
    return (
        Constant("System", "BlockHashCount", U32, BLOCK_HASH_COUNT),
        Constant("System", "SS58Prefix", U16, SS58_PREFIX),
        Constant("Timestamp", "MinimumPeriod", U64, 0),
        Constant("Balances", "ExistentialDeposit", U128, config.existential_deposit),
        Constant("Network", "EpochLength", U32, config.epoch_length),
        Constant("Network", "EpochsPerYear", U32, EPOCHS_PER_YEAR),
        Constant("Network", "DesignatedEpochSlots", U32, DESIGNATED_EPOCH_SLOTS),
        Constant("Network", "InitialTxRateLimit", U32, 0),
        Constant("Network", "PalletId", _PALLET_ID_TYPE, PALLET_ID),
        Constant("Network", "TreasuryAccount", AccountId, TREASURY_ACCOUNT),
        Constant("Network", "ActivationMode", ActivationMode, config.activation_mode),
    )


_PALLET_ID_TYPE = Annotated[bytes, Newtype(("frame_support", "PalletId"), ByteArray(8))]


def make_failure(error: DispatchError) -> Failure:
    """Return the error as the chain encodes it."""
    if error.pallet == "Token":
        return TokenFailure(
            next(kind for kind in TokenError if to_camel_case(kind.name) == error.name)
        )
    index = NETWORK_ERROR_INDEX[error.name]
    return ModuleFailure(ModuleError(NETWORK_INDEX, bytes([index, 0, 0, 0])))
