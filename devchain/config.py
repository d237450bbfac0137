"""The configuration of one development chain: rules, address, block mode, database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from devchain.chain import DEFAULT_FINALITY_LAG
from devchain.chain_types import TENSOR
from devchain.runtime import LedgerConfig

MIN_BLOCK_SECONDS = 0.02

# m/44'/60'/0'/0/0 to /5 of keys.account.DEVELOPMENT_MNEMONIC.
DEVELOPMENT_ACCOUNTS = {
    "Alith": bytes.fromhex("f24ff3a9cf04c71dbc94d0b566f7a27b94566cac"),
    "Baltathar": bytes.fromhex("3cd0a705a2dc65e5b1e1205896baa2be8a07c6e0"),
    "Charleth": bytes.fromhex("798d4ba9baf0064ec19eb4f0a1a45785ae9d6dfc"),
    "Dorothy": bytes.fromhex("773539d4ac0e786233d90a233654ccee26a613d9"),
    "Ethan": bytes.fromhex("ff64d3f6efe2317ee2807d223a0bdc4c0c49dfdb"),
    "Faith": bytes.fromhex("c0f0f4ab324c46e55d02d0033343b4be8a55532d"),
}
DEVELOPMENT_BALANCE = 1_000_000 * TENSOR


class BlockMode(StrEnum):
    """What makes a block."""

    INTERVAL = "interval"
    """The clock, every ``block_seconds``."""
    INSTANT = "instant"
    """Every submitted extrinsic."""
    MANUAL = "manual"
    """Only dev_newBlock."""


def fund_development_accounts() -> Mapping[bytes, int]:
    """Return the genesis balances of Alith to Faith."""
    return dict.fromkeys(DEVELOPMENT_ACCOUNTS.values(), DEVELOPMENT_BALANCE)


def default_ledger() -> LedgerConfig:
    """Return the rules of a fresh development chain."""
    return LedgerConfig(balances=fund_development_accounts())


@dataclass(frozen=True)
class DevChainConfig:
    """One server. Port 0 takes a free port; ``seed`` None makes a chain unlike any other."""

    ledger: LedgerConfig = field(default_factory=default_ledger)
    host: str = "127.0.0.1"
    port: int = 0
    block_seconds: float = 6.0
    mode: BlockMode = BlockMode.INTERVAL
    finality_lag: int = DEFAULT_FINALITY_LAG
    database: Path | None = None
    seed: bytes | None = None

    def __post_init__(self) -> None:
        if self.block_seconds < MIN_BLOCK_SECONDS:
            raise ValueError(f"a block takes at least {MIN_BLOCK_SECONDS} s")
        if self.finality_lag < 0:
            raise ValueError("finality cannot run ahead of the head")

    def seeded_ledger(self, seed: bytes) -> LedgerConfig:
        """Return the ledger's rules with the seed that this chain uses."""
        return replace(self.ledger, seed=seed)


def describe_rules(config: LedgerConfig) -> str:
    """Return the rules as text that is equal for equal rules, without the seed."""
    return json.dumps(
        {
            "epoch_length": config.epoch_length,
            "activation_mode": config.activation_mode.name,
            "activation_grace_epochs": config.activation_grace_epochs,
            "activation_queue_epochs": config.activation_queue_epochs,
            "existential_deposit": config.existential_deposit,
            "balances": {account.hex(): units for account, units in config.balances.items()},
            "parameters": dict(config.parameters),
        },
        sort_keys=True,
    )
