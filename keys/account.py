"""Chain accounts: secp256k1 keys and their 20-byte account ids.

Inside, an account id is 20 bytes; EIP-55 text exists only at the edges.
eth-account takes a third of a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import re
from typing import Self

from keys.errors import BadAccountId, KeystoreError

ACCOUNT_ID_SIZE = 20
PRIVATE_KEY_SIZE = 32
MAX_DERIVATION_INDEX = 2**31 - 1
MAX_MNEMONIC_TEXT = 512
MNEMONIC_WORDS = 24

# Public knowledge, funded on development chains only.
DEVELOPMENT_MNEMONIC = (
    "bottom drive obey lake curtain smoke basket hold race lonely fit walk"  # gitleaks:allow
)
DEVELOPMENT_NAMES = ("Alith", "Baltathar", "Charleth", "Dorothy", "Ethan", "Faith")

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
# Order of the secp256k1 group (SEC 2, section 2.4.1).
_GROUP_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


class AccountKey:
    """The private half of a chain account. It has no repr and cannot be pickled."""

    __slots__ = ("_private_key", "account_id", "address")

    account_id: bytes
    """20 bytes."""
    address: str
    """``account_id`` as EIP-55 text."""

    def __init__(self, private_key: bytes) -> None:
        """Raises KeystoreError for bytes that are not a secp256k1 private key."""
        if len(private_key) != PRIVATE_KEY_SIZE:
            raise KeystoreError(f"a private key has {PRIVATE_KEY_SIZE} bytes")
        if not 0 < int.from_bytes(private_key, "big") < _GROUP_ORDER:
            raise KeystoreError("the private key is not in the range of secp256k1")
        from eth_account import Account

        self._private_key = bytes(private_key)
        self.address = str(Account.from_key(self._private_key).address)
        self.account_id = bytes.fromhex(self.address[2:])

    @classmethod
    def from_private_key(cls, private_key: bytes) -> Self:
        """Take 32 big-endian bytes. Raises KeystoreError."""
        return cls(private_key)

    @classmethod
    def from_mnemonic(cls, phrase: str, *, index: int = 0) -> Self:
        """Derive ``m/44'/60'/0'/0/<index>`` (BIP-39, BIP-44). Raises KeystoreError."""
        if not 0 <= index <= MAX_DERIVATION_INDEX:
            raise ValueError(f"a derivation index is in [0, {MAX_DERIVATION_INDEX}]")
        if len(phrase) > MAX_MNEMONIC_TEXT:
            raise KeystoreError("the phrase is too long for a BIP-39 mnemonic")
        from eth_account.hdaccount import key_from_seed, seed_from_mnemonic
        from eth_utils.exceptions import ValidationError

        try:
            seed = seed_from_mnemonic(phrase, "")
        except ValidationError:
            # Not chained: the library's message quotes the phrase.
            raise KeystoreError("the phrase is not a valid BIP-39 mnemonic") from None
        return cls(bytes(key_from_seed(seed, f"m/44'/60'/0'/0/{index}")))

    def private_key(self) -> bytes:
        """Return the 32 secret bytes, for the chain client and the keystore."""
        return self._private_key

    def __repr__(self) -> str:
        return f"<AccountKey of {self.address}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not serialised")


def generate_mnemonic() -> str:
    """Return a new random BIP-39 phrase of 24 words: 256 bits of entropy."""
    from eth_account.hdaccount import generate_mnemonic as generate
    from eth_account.types import Language

    return str(generate(MNEMONIC_WORDS, Language.ENGLISH))


def derive_development_account(index: int) -> AccountKey:
    """Return the ``index``-th account of the development phrase; 0 is Alith."""
    return AccountKey.from_mnemonic(DEVELOPMENT_MNEMONIC, index=index)


def get_development_account(name: str) -> AccountKey:
    """Return the development account called ``name``, in any case. Raises KeystoreError."""
    names = [known.lower() for known in DEVELOPMENT_NAMES]
    if name.lower() not in names:
        raise KeystoreError(f"development accounts are {', '.join(DEVELOPMENT_NAMES)}")
    return derive_development_account(names.index(name.lower()))


def format_account_id(account_id: bytes) -> str:
    """Return the EIP-55 text of a 20-byte account id. Raises BadAccountId."""
    if len(account_id) != ACCOUNT_ID_SIZE:
        raise BadAccountId(f"an account id has {ACCOUNT_ID_SIZE} bytes, not {len(account_id)}")
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(account_id))


def parse_account_id(text: str) -> bytes:
    """Return the 20 bytes of ``0x`` text. Raises BadAccountId.

    Text of mixed case must carry the right EIP-55 checksum; text of one case has none.
    """
    if not _ADDRESS.fullmatch(text):
        raise BadAccountId("an account is written as 0x and 40 hexadecimal digits")
    account_id = bytes.fromhex(text[2:])
    digits = text[2:]
    has_checksum = digits not in (digits.lower(), digits.upper())
    if has_checksum and format_account_id(account_id) != text:
        raise BadAccountId(f"the checksum of {text} is wrong: a digit was mistyped")
    return account_id
