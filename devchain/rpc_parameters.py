"""Checked access to a JSON-RPC request's parameters, by position or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devchain.rpc_errors import bad_params

_MISSING = object()
_HASH_SIZE = 32


@dataclass(frozen=True)
class RpcParameters:
    """One request's parameters; every getter raises RpcError for what does not fit."""

    raw: Sequence[Any] | Mapping[str, Any]

    def _get(self, index: int, name: str) -> Any:
        if isinstance(self.raw, Mapping):
            return self.raw.get(name, _MISSING)
        return self.raw[index] if index < len(self.raw) else _MISSING

    def is_given(self, index: int, name: str) -> bool:
        return self._get(index, name) not in (_MISSING, None)

    def integer(self, index: int, name: str, *, default: int | None = None) -> int:
        """A number that is not negative, plain or as hexadecimal text."""
        value = self._get(index, name)
        if value in (_MISSING, None) and default is not None:
            return default
        if isinstance(value, str):
            try:
                value = int(value, 16 if value.startswith("0x") else 10)
            except ValueError as error:
                raise bad_params(f"{name} is a number") from error
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise bad_params(f"{name} is a number that is not negative")
        return value

    def number(self, index: int, name: str, *, default: float) -> float:
        """A positive number of seconds."""
        value = self._get(index, name)
        if value in (_MISSING, None):
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
            raise bad_params(f"{name} is a positive number")
        return float(value)

    def text(self, index: int, name: str) -> str:
        value = self._get(index, name)
        if not isinstance(value, str):
            raise bad_params(f"{name} is text")
        return value

    def data(self, index: int, name: str) -> bytes:
        """Hexadecimal text with 0x."""
        return parse_hex(self._get(index, name), name)

    def data_list(self, index: int, name: str, *, limit: int) -> list[bytes]:
        """A list of hexadecimal texts."""
        values = self._get(index, name)
        if not isinstance(values, list) or len(values) > limit:
            raise bad_params(f"{name} is a list of at most {limit} hexadecimal texts")
        return [parse_hex(value, name) for value in values]

    def block_hash(self, index: int, name: str = "hash") -> bytes | None:
        """An optional 32-byte hash."""
        if not self.is_given(index, name):
            return None
        value = self.data(index, name)
        if len(value) != _HASH_SIZE:
            raise bad_params(f"{name} is a block hash of {_HASH_SIZE} bytes")
        return value


def parse_hex(value: Any, name: str) -> bytes:
    """Return the bytes of hexadecimal text with 0x. Raises RpcError."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise bad_params(f"{name} is hexadecimal text with 0x")
    try:
        return bytes.fromhex(value[2:])
    except ValueError as error:
        raise bad_params(f"{name} is hexadecimal text with 0x") from error


def to_hex(data: bytes) -> str:
    """Return hexadecimal text with 0x."""
    return f"0x{data.hex()}"
