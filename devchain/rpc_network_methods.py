"""The node's network_* methods: the runtime API with JSON arguments.

They answer with the encoding as a list of numbers, proofOfStake with a boolean,
and take an optional block hash last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from devchain import rpc_answers
from devchain.chain import Chain
from devchain.rpc_errors import bad_params
from devchain.rpc_parameters import RpcParameters, parse_hex
from devchain.runtime_api import FUNCTIONS
from devchain.scale import (
    Bool,
    ByteArray,
    ByteVec,
    Newtype,
    OptionOf,
    Reader,
    ScaleType,
    UInt,
    decode_compact,
    to_camel_case,
)


def _answer(chain: Chain, parameters: RpcParameters, *, name: str) -> list[int] | bool:
    function = FUNCTIONS[name]
    given = [] if isinstance(parameters.raw, Mapping) else list(parameters.raw)
    count = len(function.arguments)
    if isinstance(parameters.raw, Mapping) or not count <= len(given) <= count + 1:
        raise bad_params(f"{count} arguments and an optional block hash")
    pairs = zip(function.arguments, given, strict=False)
    data = b"".join(_encode(kind, value) for kind, value in pairs)
    block = rpc_answers.require_block(chain, parameters.block_hash(count))
    answer = rpc_answers.query_network(chain, name, data, block=block)
    if function.result == Bool():
        return answer == b"\x01"
    reader = Reader(answer)
    return list(reader.take(decode_compact(reader)))


def _encode(kind: ScaleType, value: Any) -> bytes:
    """Encode one JSON argument. Raises RpcError."""
    match kind:
        case OptionOf(item):
            return b"\x00" if value is None else b"\x01" + _encode(item, value)
        case UInt(bits):
            if type(value) is not int or not 0 <= value < 1 << bits:
                raise bad_params(f"an argument is a number of at most {bits} bits")
            return kind.encode(value)
        case ByteVec():
            return kind.encode(_parse_bytes(value))
        case Newtype(_, ByteArray(size)):
            raw = parse_hex(value, "the account")
            if len(raw) != size:
                raise bad_params(f"an account has {size} bytes")
            return raw
    raise bad_params("an argument cannot be encoded")


def _parse_bytes(value: Any) -> bytes:
    """Bytes come as a list of numbers, as hexadecimal text with 0x, or as text."""
    if isinstance(value, list):
        try:
            return bytes(value)
        except (TypeError, ValueError) as error:
            raise bad_params("bytes are numbers from 0 to 255") from error
    if isinstance(value, str) and value.startswith("0x"):
        return parse_hex(value, "the argument")
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise bad_params("text is Unicode without lone surrogates") from error
    raise bad_params("bytes are a list of numbers or text")


def _rpc_name(name: str) -> str:
    camel = to_camel_case(name)
    return f"network_{camel[0].lower()}{camel[1:]}"


NETWORK_METHODS: dict[str, Callable[[Chain, RpcParameters], Any]] = {
    _rpc_name(name): functools.partial(_answer, name=name) for name in FUNCTIONS
}
